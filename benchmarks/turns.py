"""The order in which a benchmark's candidates run."""

from __future__ import annotations

from collections.abc import Iterable


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """The names in a rotated order each time, so that no benchmark always runs after the same one."""
    names = list(names)
    first = number % len(names)
    return names[first:] + names[:first]
