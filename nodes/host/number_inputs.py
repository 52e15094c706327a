"""The numbers that a node receives: inputs checked against the ranges of its own schema, and numbers written as text.

ComfyUI compares a constant with the input's range when a job is queued. It compares no number that another node
computes, and NaN passes because it is neither below the minimum nor above the maximum.
"""

from __future__ import annotations

import functools
import inspect
import math
import unicodedata
from collections.abc import Callable
from typing import Any

from ...pidiff_core.errors import PIDiffError, quoted
from ...pidiff_core.shapes import check_number

Ranges = dict[str, tuple[float, float, bool]]


def checked_numbers(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute` that raises a PIDiffError for a number outside of the range of its input.

    Write it below `@classmethod`. Inputs are found in the schema, so a new one needs no entry here.
    """
    signature = inspect.signature(execute)
    known: list[Ranges] = []  # empty until the first call; the host makes a new class for every run

    @functools.wraps(execute)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        if not known:
            known.append(ranges_of(given.arguments["cls"]))
        for name, (low, high, is_whole) in known[0].items():
            if name in given.arguments:
                given.arguments[name] = check_number(given.arguments[name], low, high, name=name, is_whole=is_whole)
        return execute(*given.args, **given.kwargs)

    return checked


def ranges_of(node: Any) -> Ranges:
    """By a number input's name: the smallest and the largest value, and whether it is a whole number."""
    return {
        declared.id: (
            -math.inf if declared.min is None else declared.min,
            math.inf if declared.max is None else declared.max,
            declared.io_type == "INT",
        )
        for declared in node.define_schema().inputs
        if getattr(declared, "io_type", None) in ("INT", "FLOAT")
    }


def numbers_in(text: str, *, name: str) -> list[float]:
    """Numbers with spaces, semicolons or commas between; '0,5 1,5' has decimal commas.

    name: of the numbers, for the error, such as "weights".

    Raises:
        PIDiffError: a word is not a number.
    """
    words = [word.strip(",") for word in unicodedata.normalize("NFKC", text).replace(";", " ").split()]
    if len(words) > 1:  # the spaces are what separates: a comma inside a word is a decimal one
        words = [word.replace(",", ".") for word in words if word]
    else:
        words = [part for word in words for part in word.split(",")]
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise PIDiffError(
            f"The {name} {quoted(text)} are not numbers. Write numbers with spaces between them, for example '1 1 0.5'."
        ) from error
