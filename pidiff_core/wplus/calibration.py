"""How far a direction can go, measured on portraits, so that 1 on a slider is a clear change for every direction.

The numbers in a direction's file have the length that their author gave them: a step of one is invisible, a step of
another destroys the portrait. Two measures make them comparable:

- *visible*: the mean change of the 5 % of pixels that change most. A local change, such as a smile, would vanish in the
  mean of all pixels.
- *distance*: how far the codes move, over the mean distance of the generator's people from their average. Beyond about
  that distance there are no people, and the portrait breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .codes import LEVELS, WPlus
from .directions import MOST_STEPS, Direction, apply_direction

VISIBLE = 0.25  # change that people see at a glance, of the range from black to white
LONGEST = 0.7  # distance at which a slider ends
MOST_UNITS = 3.0  # a slider's length: a change that is visible much earlier gets larger units
_SAMPLES = 512  # people of whom the distance is measured
_SHARE = 0.05  # of the pixels, those that change most
_STOPS = (1 / MOST_UNITS, 1.0)  # parts of the longest way at which the change is measured


@dataclass(frozen=True)
class Reach:
    """The useful amounts of one direction, in its own steps.

    Args:
        unit: steps of a clear change.
        most: steps at which the range ends, both ways; from 1 to MOST_UNITS units.
        level: the level in which the direction changes the portrait most.
    """

    unit: float
    most: float
    level: str


@torch.no_grad()
def typical_distance(mapping: Callable[[Tensor], Tensor], z_dim: int) -> float:
    """Mean distance of a generator's people from their average, in one style.

    Args:
        mapping: Gaussian vectors (B, z_dim) -> w (B, D).
        z_dim: numbers in a vector.
    """
    w = mapping(torch.randn(_SAMPLES, z_dim, generator=torch.Generator().manual_seed(0)))
    return float((w - w.mean(dim=0)).norm(dim=1).mean())


def measure_reach(
    direction: Direction, wplus: WPlus, *, draw: Callable[[Tensor], Tensor], typical: float
) -> Reach | None:
    """What a direction does to one person's portrait.

    Args:
        direction: of the codes' space.
        wplus: one person (1, S, D).
        draw: codes (1, S, D) -> portrait (1, 3, H, W) in [-1, 1].
        typical: from `typical_distance`.

    Returns:
        None if no amount within the range changes the portrait clearly: such an edit is not worth a slider.

    Raises:
        PIDiffError: a direction of another space or shape.
    """
    length = _length(wplus, direction)
    if length <= 1e-6 * typical:
        return None
    most = min(LONGEST * typical / length, MOST_STEPS)
    before = draw(wplus.codes)

    def change(amount: float, level: str | None = None) -> float:
        moved = apply_direction(wplus, direction, amount=amount, levels=LEVELS if level is None else [level])
        return _visible_change(draw(moved.codes), before)

    reached, seen = 0.0, 0.0
    for stop in _STOPS:
        seen_here = (change(stop * most) + change(-stop * most)) / 2
        if seen_here >= VISIBLE:
            part = reached + (stop - reached) * (VISIBLE - seen) / (seen_here - seen)
            return Reach(max(part, _STOPS[0]) * most, most, max(LEVELS, key=lambda level: change(most, level)))
        reached, seen = stop, seen_here
    return None


def _length(wplus: WPlus, direction: Direction) -> float:
    """Mean length of one step in the styles that it touches."""
    moved = apply_direction(wplus, direction, amount=1.0).codes - wplus.codes
    lengths = moved[0].norm(dim=-1)
    touched = lengths[lengths > 0]
    return float(touched.mean()) if len(touched) else 0.0


def _visible_change(portrait: Tensor, before: Tensor) -> float:
    """(1, 3, H, W) each, in [-1, 1] -> from 0 to 1: see the module's text."""
    change = (portrait.clamp(-1, 1) - before.clamp(-1, 1)).abs().amax(dim=1).flatten() / 2
    return float(change.topk(max(1, round(_SHARE * len(change)))).values.mean())
