"""Shape checks whose errors give the expected pattern and the shape that was found."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Any

from .errors import PIDiffError, quoted


def check_shape(tensor: Any, pattern: str, *, name: str) -> dict[str, int]:
    """Check a tensor's shape against a pattern and return the sizes of its names.

    Args:
        tensor: anything with a `shape` (torch tensor, numpy array).
        pattern: one word per dimension, separated by spaces: a number must match, a name binds (and must match if it is
            repeated), `*` matches anything. Example: "B S 512".
        name: the tensor's name in the error.

    Returns:
        The size bound to every name of the pattern, for example {"B": 2, "S": 18}.

    Raises:
        PIDiffError: not a tensor, or the shape does not match.
    """
    shape = getattr(tensor, "shape", None)
    if shape is None:
        raise PIDiffError(f"{name} should be a tensor of shape ({pattern}), but it is a {type(tensor).__name__}.")
    words = pattern.split()
    sizes = tuple(int(size) for size in shape)
    bound: dict[str, int] = {}
    matches = len(words) == len(sizes)
    for word, size in zip(words, sizes):
        if word == "*":
            continue
        expected = int(word) if re.fullmatch(r"\d+", word) else bound.setdefault(word, size)
        matches = matches and expected == size
    if not matches:
        raise PIDiffError(f"{name} should have the shape ({pattern}), but it has {sizes}.")
    return bound


def check_number(value: Any, low: float, high: float, *, name: str, is_whole: bool = False) -> float:
    """A number of the user's, which may come from another program and be anything.

    Args:
        value: the number; numpy's are numbers too.
        low, high: the smallest and the largest that is allowed.
        name: what the error calls it.
        is_whole: whether it has to be a whole number, which is then returned as an int.

    Raises:
        PIDiffError: not a number, not finite, outside of the range, or not whole.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    fits = is_number and low <= value <= high and abs(value) != math.inf  # NaN is in no range
    if not fits or (is_whole and value != int(value)):
        expected = f"a whole number from {low} to {high}" if is_whole else f"a number from {low:g} to {high:g}"
        raise PIDiffError(f"{name} should be {expected}, but it is {quoted(value)}.")
    return int(value) if is_whole else float(value)
