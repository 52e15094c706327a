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
        name: one of `own`, or a file's name, with ":2" for the third of several in it, or ":name".
        own: the model's directions by name, all of `space`.
        find_file: a file's name -> its path, or None.
        listed: the files there are, for the error.
        searched: the folders that they were looked for in, for the error.

    Raises:
        PIDiffError: no such direction; the sentence lists those that there are.
    """
    if name in own:
        return Direction(name, own[name], space)
    file, _, part = name.partition(":")
    if (path := find_file(file)) is not None:
        found = load_directions(path)
        if part in found:
            return found[part]
        numbered = {str(index): direction for index, direction in enumerate(found.values())}
        if (part or "0") in numbered:
            return numbered[part or "0"]
        raise PIDiffError(f"{path} has no direction '{part}'. It holds {_some(list(found))}.")
    places = f" (files are searched in {', '.join(searched)})" if searched else ""
    raise PIDiffError(
        f"There is no direction '{name}'. There are: {_some([*own, *listed])}{places}. "
        "Write one of these names, or put a direction file into models/pidiff."
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return (shown or "none") + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
