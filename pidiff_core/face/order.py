"""Which of the faces in one picture is meant: counted by size or by place, or all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import PIDiffError
from .detection import FaceDetection, Pick, largest_first

ALL = "all"
# What a face's number counts by, from the least of these values on, and what the first is called.
_ORDERS: dict[str, tuple[str, Callable[[FaceDetection, Tensor], float]]] = {
    "largest first": ("largest", lambda face, centre: -face.size_px),
    "left to right": ("leftmost", lambda face, centre: float(face.middle[0])),
    "top to bottom": ("topmost", lambda face, centre: float(face.middle[1])),
    "centre first": ("nearest to the middle", lambda face, centre: float((face.middle - centre).norm())),
}
CHOICES = (*_ORDERS, ALL)


def picking(choose: str, *, index: int, size: tuple[int, int]) -> Pick:
    """What picks the faces that the user means, of a picture of this size (height, width).

    Args:
        choose: one of CHOICES; "all" is every face, the largest first.
        index: a face's number in that order, from 0; negative ones count from the end. "all" does not look at it.
        size: height and width of the picture.

    Raises:
        PIDiffError: an unknown choice. What is returned raises one where there is no such face.
    """
    if choose not in CHOICES:
        raise PIDiffError(f"Faces can be chosen {', '.join(CHOICES)}, but '{choose}' was asked for.")
    if choose == ALL:
        return largest_first
    first, value = _ORDERS[choose]
    centre = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])

    def pick(faces: list[FaceDetection]) -> list[FaceDetection]:
        if not -len(faces) <= index < len(faces):
            raise PIDiffError(
                f"Face {index} was asked for, but only {len(faces)} found (0 is the {first}). Choose a smaller "
                "face_index, or give landmarks."
            )
        return [sorted(faces, key=lambda face: value(face, centre))[index]]

    return pick
