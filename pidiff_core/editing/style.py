"""Finding the direction that a user names: one of the model's own, or one in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..errors import PIDiffError
from ..wplus import WPlusSpace
from .directions import Direction
from .files import load_directions

_LISTED = 12  # names in the error; the rest are counted


def find_direction(
    name: str,
    *,
    own: Mapping[str, Tensor],
    space: WPlusSpace,
    find_file: Callable[[str], str | None],
    listed: Sequence[str] = (),
    searched: Sequence[str] = (),
) -> Direction:
    """The direction called `name`.

    Args:
        name: one of `own`, or a file's name, with ":2" for the third of several in it.
        own: the model's directions by name, all of `space`.
        find_file: a file's name -> its path, or None.
        listed: the files there are, for the error.
        searched: the folders that they were looked for in, for the error.

    Raises:
        PIDiffError: no such direction; the sentence lists those that there are.
    """
    if name in own:
        return Direction(name, own[name], space)
    stem, colon, number = name.rpartition(":")
    file = stem if colon and number.isdigit() else name
    if (path := find_file(file)) is not None:
        found = list(load_directions(path).values())
        index = int(number) if file != name else 0
        if index < len(found):
            return found[index]
        raise PIDiffError(f"{path} holds {len(found)} directions (0 to {len(found) - 1}), so there is no '{name}'.")
    names = [*own, *listed]
    there = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    raise PIDiffError(
        f"There is no direction '{name}'. There are: {there or 'none'}"
        f"{f' (files are searched in {chr(44).join(searched)})' if searched else ''}. "
        "Write one of these names, or put a direction file into models/pidiff."
    )
