"""Shape checks whose errors restate the pattern and the shape that was met."""

from __future__ import annotations

import re
from typing import Any

from .errors import PIDiffError


def check_shape(tensor: Any, pattern: str, *, name: str) -> dict[str, int]:
    """Check a tensor's shape against a pattern and return what its letters stand for.

    Args:
        tensor: anything with a `shape` (torch tensor, numpy array).
        pattern: one word a dimension, separated by blanks: a number must match, a name binds (and must match where
            it is repeated), `*` is anything. Example: "B S 512".
        name: what the tensor is called in the error.

    Returns:
        The size bound to every name of the pattern, for example {"B": 2, "S": 18}.

    Raises:
        PIDiffError: not a tensor, or another shape than the pattern's.
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
