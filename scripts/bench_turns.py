"""The order in which a benchmark's candidates run."""

from __future__ import annotations

from collections.abc import Iterable


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """The names in an order that begins elsewhere each time: nobody always runs behind the same neighbour's caches."""
    names = list(names)
    first = number % len(names)
    return names[first:] + names[:first]
