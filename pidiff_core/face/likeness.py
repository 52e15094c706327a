"""Likeness as a number: pictures compared with photos of one person, by a face recogniser from outside.

The scale is anchored at two values of the recogniser itself: 100 % is the reference photo, 50 % the distance below
which the recogniser's authors take two faces for one person; between and below them it is linear, down to 0 % at twice
that distance. Percents of two recognisers are therefore of one kind, but not equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PIDiffError, check_interrupted
from .recognisers import Recogniser


@dataclass(frozen=True)
class Likeness:
    """How similar each picture's face is to the person of the references.

    Args:
        percents: one for each picture, 0 to 100; None if no face was found in it.
        recogniser: the name of the judge.
        references: how many reference photos counted.
    """

    percents: tuple[float | None, ...]
    recogniser: str
    references: int

    @property
    def order(self) -> list[int]:
        """The pictures' numbers, the best one first; those without a face last."""
        return sorted(range(len(self.percents)), key=lambda index: -self._rank(index))

    def above(self, percent: float) -> list[int]:
        """The pictures of at least this percent, the best one first; 0 keeps those without a face, too."""
        return [index for index in self.order if percent <= 0.0 or self._rank(index) >= percent]

    def label(self, index: int) -> str:
        """The percent of a picture as text."""
        percent = self.percents[index]
        return "no face" if percent is None else f"{percent:.0f} %"

    def report(self) -> str:
        """One line for each picture, the best one first, under a line that names the judge."""
        photos = "1 photo" if self.references == 1 else f"{self.references} photos"
        head = f"{self.recogniser}, {photos} of the person; 50 %: its limit for one person"
        return "\n".join([head, *(f"picture {index}: {self.label(index)}" for index in self.order)])

    def _rank(self, index: int) -> float:
        percent = self.percents[index]
        return -1.0 if percent is None else percent


def percent_of(distance: float, same_below: float) -> float:
    """A recogniser's distance on the scale of this file."""
    return 100.0 * min(1.0, max(0.0, 1.0 - distance / (2.0 * same_below)))


def measure_likeness(
    judge: Recogniser,
    images_bhwc: Tensor,
    references_bhwc: Tensor,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Likeness:
    """Compare the largest face of each picture with the largest faces of the references.

    The distance to several references is the mean of the distances to each.

    Args:
        judge: one of `recognisers`.
        images_bhwc: (B, H, W, C) in [0, 1].
        references_bhwc: (R, h, w, C) in [0, 1], photos of one person.
        on_progress: called with the fraction of the work that is done, from 0 to 1.

    Raises:
        PIDiffError: no reference has a face.
    """
    work = len(references_bhwc) + len(images_bhwc)

    def vectors_of(pictures: Tensor, first: int) -> list[Tensor | None]:
        found = []
        for number, picture in enumerate(pictures):
            check_interrupted()
            found.append(judge.vector(picture[None]))
            if on_progress is not None:
                on_progress((first + number + 1) / work)
        return found

    known = [vector for vector in vectors_of(references_bhwc, 0) if vector is not None]
    if not known:
        raise PIDiffError(
            f"The recogniser {judge.name} finds no face in the {len(references_bhwc)} reference photos. Use a photo "
            "with a larger, clearer face."
        )
    people = torch.stack(known)

    def percent(vector: Tensor | None) -> float | None:
        if vector is None:
            return None
        return percent_of(float((people - vector).norm(dim=1).mean()), judge.same_below)

    percents = tuple(percent(vector) for vector in vectors_of(images_bhwc, len(references_bhwc)))
    return Likeness(percents, judge.name, len(known))
