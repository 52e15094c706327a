"""Editing codes: along a direction ("older", "smiling"), or with levels of another person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PIDiffError
from .codes import LEVELS, WPlus, WPlusSpace, levels

MOST_STEPS = 20.0  # the largest amount that users may set, both ways


@dataclass(frozen=True, eq=False)
class Goal:
    """The coordinate along a direction to which an edit moves codes, if the edit is not a distance.

    The coordinate of codes (B, S, D) is that of their first style: (codes[:, 0] - mean) . measure, so that a person who
    smiles already is moved less.

    Args:
        coordinate: the target value, in steps of the direction.
        mean: (D,), the place whose coordinate is 0.
        measure: (D,), the direction as a measure: adding one step to a code adds 1.
    """

    coordinate: float
    mean: Tensor
    measure: Tensor

    def steps(self, codes: Tensor) -> Tensor:
        """(B, S, D) -> (B, 1, 1): steps from each code to the target."""
        return (self.coordinate - (codes[:, 0] - self.mean) @ self.measure)[:, None, None]


@dataclass(frozen=True, eq=False)
class Direction:
    """One way to change an identity.

    Args:
        name: shown to users.
        vector: (S, D), or (1, D) for the same change in every style; a step of 1 along it is the author's unit.
        space: the W+ space that it was found in; None if it is not recorded, then only the shape is checked.
        styles: the styles that it may touch, first and last + 1; None = all.
        goal: the target, if the edit is not a plain distance.
    """

    name: str
    vector: Tensor
    space: WPlusSpace | None = None
    styles: tuple[int, int] | None = None
    goal: Goal | None = None

    def __post_init__(self) -> None:
        vector = self.vector.detach().float().cpu()
        if vector.ndim == 3 and len(vector) == 1:
            vector = vector[0]
        if vector.ndim != 2:
            raise PIDiffError(
                f"The direction '{self.name}' should be of (S, D) or (1, D), but it has {tuple(self.vector.shape)}."
            )
        if not torch.isfinite(vector).all():
            raise PIDiffError(f"The direction '{self.name}' holds numbers that are not finite.")
        object.__setattr__(self, "vector", vector)


def check_levels(chosen: Iterable[str]) -> tuple[str, ...]:
    """The chosen levels in the order coarse, medium, fine; PIDiffError for an unknown one."""
    wanted = set(chosen)
    if unknown := sorted(wanted - set(LEVELS)):
        raise PIDiffError(f"Unknown levels: {', '.join(unknown)}. There are {', '.join(LEVELS)}.")
    return tuple(level for level in LEVELS if level in wanted)


def style_mask(num_styles: int, chosen: Iterable[str]) -> Tensor:
    """(S, 1): 1 for the styles of the chosen levels, else 0."""
    mask = torch.zeros(num_styles, 1)
    for level in check_levels(chosen):
        mask[levels(num_styles)[level]] = 1.0
    return mask


def apply_direction(wplus: WPlus, direction: Direction, *, amount: float, levels: Iterable[str] = LEVELS) -> WPlus:
    """Move codes along a direction, in the chosen levels only; amount 0 gives the same bits.

    amount: in steps; for a direction with a goal, the part of the way to it (1 is the goal, 0.5 half of the way).

    Raises:
        PIDiffError: a direction of another space or shape.
    """
    space, vector = wplus.space, direction.vector
    if direction.space is not None and direction.space != space:
        raise PIDiffError(f"The direction '{direction.name}' belongs to {direction.space}, but the codes to {space}.")
    if vector.shape[0] not in (1, space.num_styles) or vector.shape[1] != space.width:
        raise PIDiffError(
            f"The direction '{direction.name}' has the shape {tuple(vector.shape)}, but the codes of {space} need "
            f"({space.num_styles}, {space.width}) or (1, {space.width})."
        )
    mask = style_mask(space.num_styles, levels)
    if direction.styles is not None:
        first, end = direction.styles
        mask[:first], mask[end:] = 0.0, 0.0
    steps = amount if direction.goal is None else amount * direction.goal.steps(wplus.codes)
    moved = wplus.codes + steps * mask * vector
    return wplus.with_codes(moved, source=f"{wplus.source} + {amount:g} {direction.name}")


def mix_levels(wplus: WPlus, other: WPlus, *, levels: Iterable[str], amount: float = 1.0) -> WPlus:
    """Take the chosen levels from another person: coarse for the head's shape, fine for the colours.

    Args:
        wplus: (B, S, D).
        other: as many people, or one for all.
        levels: those taken from `other`.
        amount: 0 keeps the first person, 1 takes the other's levels whole, between is a blend.

    Raises:
        PIDiffError: two spaces, or numbers of identities that do not fit.
    """
    wplus.require_same_space(other)
    if len(other) not in (1, len(wplus)):
        raise PIDiffError(
            f"{len(wplus)} people cannot be mixed with {len(other)}: give as many others, or one for all."
        )
    chosen = check_levels(levels)
    share = amount * style_mask(wplus.space.num_styles, chosen)
    mixed = torch.lerp(wplus.codes, other.codes.expand_as(wplus.codes), share.expand_as(wplus.codes))
    return wplus.with_codes(mixed, source=f"{wplus.source} with {', '.join(chosen) or 'nothing'} of {other.source}")
