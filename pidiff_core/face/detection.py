"""Face detectors behind one small interface, and the search that does not give up at the first try."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bchw, resize_bchw

MIN_SIDE_PX = 16  # a face needs about that many pixels to be one


@dataclass(frozen=True, eq=False)
class FaceDetection:
    """One face, in the pixels of the picture that was searched."""

    box_xyxy: Tensor  # (4,): left, top, right, bottom
    landmarks: (
        Tensor  # (5, 2): left eye, right eye, nose, left and right corner of the mouth, as seen on the upright face
    )
    score: float  # the detector's own confidence, 0 to 1

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        return float((self.box_xyxy[2:] - self.box_xyxy[:2]).max())

    def scaled(self, factor: float, *, margin_px: int = 0) -> FaceDetection:
        """The same face in the picture enlarged by `factor`, a border of `margin_px` taken off before."""

        def moved(points: Tensor) -> Tensor:
            return (points - margin_px + 0.5) * factor - 0.5  # whole numbers are the centres of pixels

        return FaceDetection(moved(self.box_xyxy), moved(self.landmarks), self.score)


class FaceDetector(Protocol):
    """What finds faces in one picture (1, 3, H, W) in [-1, 1], each with five points; none is an empty list."""

    name: str

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]: ...


@dataclass(frozen=True)
class _Attempt:
    """One way to show the picture to a detector."""

    long_side_px: int  # the picture is scaled so that its longer side has at most (or, with `enlarge`, exactly) this
    enlarge: bool = False  # small faces
    border: float = 0.0  # plain border around it, in longer sides: faces that fill or leave the picture
    quarter_turns: int = 0  # counter-clockwise: lying and upside-down faces


_ATTEMPTS = (
    _Attempt(1024),
    _Attempt(640, border=0.35),
    _Attempt(1024, enlarge=True),
    _Attempt(320, enlarge=True, border=0.6),
    _Attempt(2048, enlarge=True),
    _Attempt(640, border=0.2, quarter_turns=1),
    _Attempt(640, border=0.2, quarter_turns=3),
    _Attempt(640, border=0.2, quarter_turns=2),
)


def find_faces(image_bchw: Tensor, detectors: FaceDetector | Sequence[FaceDetector]) -> list[FaceDetection]:
    """All faces of one picture, the largest first; several ways of showing it are tried until one finds some.

    Args:
        image_bchw: one picture (1, 3, H, W) in [-1, 1].
        detectors: tried in this order; the first to find anything decides.

    Returns:
        Detections in the picture's own pixels, landmarks possibly outside of it; an empty list where none is found.

    Raises:
        PIDiffError: not one picture, or one too small to hold a face.
    """
    sizes = check_image_bchw(image_bchw)
    if sizes["B"] != 1:
        raise PIDiffError(f"Faces are searched one picture at a time, but {sizes['B']} were given.")
    if min(sizes["H"], sizes["W"]) < MIN_SIDE_PX:
        raise PIDiffError(
            f"The picture is {sizes['W']}x{sizes['H']} pixels, too small to hold a face. Give one of at least "
            f"{MIN_SIDE_PX} px a side, better 256."
        )
    many = detectors if isinstance(detectors, Sequence) else [detectors]
    for detector in many:
        tried: set[tuple[object, ...]] = set()
        for attempt in _ATTEMPTS:
            shown, scale, margin_px = _show(image_bchw, attempt)
            key = (tuple(shown.shape), margin_px, attempt.quarter_turns)
            if key in tried:  # a large picture is not enlarged: the same view again
                continue
            tried.add(key)
            turned = torch.rot90(shown, attempt.quarter_turns, dims=(2, 3))
            if faces := detector.detect(turned):
                faces = [
                    _turn_back(face, attempt.quarter_turns, width=shown.shape[3], height=shown.shape[2])
                    for face in faces
                ]
                faces = [face.scaled(1.0 / scale, margin_px=margin_px) for face in faces]
                return sorted(faces, key=lambda face: face.size_px, reverse=True)
    return []


def select_face(faces: Sequence[FaceDetection], index: int) -> FaceDetection:
    """Face `index` of a list, the largest first; negative indices count from the smallest."""
    if not -len(faces) <= index < len(faces):
        raise PIDiffError(
            f"Face {index} was asked for, but only {len(faces)} found (0 is the largest). Choose a smaller face_index, "
            "or give landmarks."
        )
    return faces[index]


def names_of(detectors: Iterable[FaceDetector]) -> str:
    """The detectors' names for an error's sentence."""
    return ", ".join(detector.name for detector in detectors) or "none"


def _show(image_bchw: Tensor, attempt: _Attempt) -> tuple[Tensor, float, int]:
    """The scaled and bordered picture, the scale and the border in its pixels."""
    height, width = image_bchw.shape[-2:]
    scale = attempt.long_side_px / max(height, width)
    if not attempt.enlarge:
        scale = min(scale, 1.0)
    scale = min(scale, 4.0)  # beyond that there is nothing to see but the interpolation
    shown = resize_bchw(image_bchw, (max(1, round(height * scale)), max(1, round(width * scale))))
    margin_px = round(attempt.border * max(shown.shape[-2:]))
    if margin_px:
        # A plain grey border: a mirrored one would show faces that are not there.
        shown = F.pad(shown, (margin_px,) * 4, value=0.0)
    return shown, scale, margin_px


def _turn_back(face: FaceDetection, quarter_turns: int, *, width: int, height: int) -> FaceDetection:
    """From the pixels of torch.rot90(picture, quarter_turns) to those of the picture (width x height)."""
    points = torch.cat([face.landmarks, face.box_xyxy.reshape(2, 2)])
    for turn in range(quarter_turns, 0, -1):
        side = width if turn % 2 else height  # the width of the picture before this turn
        x, y = points.unbind(dim=1)
        points = torch.stack([side - 1 - y, x], dim=1)
    corners = points[5:]
    box = torch.cat([corners.amin(dim=0), corners.amax(dim=0)])
    return FaceDetection(box, points[:5], face.score)
