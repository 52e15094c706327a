"""A second look at a face that was found, at a good size and from several sides.

Detectors report faces that lie or stand on their heads as upright ones, with a high score and points that belong
nowhere. The points of a face are where they are however the picture is turned, though, while those that a detector's
habits put there turn along with the view. So a face counts where neighbouring views agree on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from ..images import resize_bchw
from .geometry import pixel_scaling, shift, transform_points, warp

if TYPE_CHECKING:
    from torch import Tensor

    from .detection import FaceDetection, FaceDetector

_VIEW_PX = 224  # the side of a view
_FACE_PX = 100.0  # the face's size in it: what every detector is good at
_STEP = 30  # degrees between two neighbouring views
_TRIED = 3  # directions of the face that are looked into, when it is not as it was found
# Mean distance between the same points of neighbouring views, in sizes of the face. On upright faces of the reference
# photos it is 0.01 to 0.06; what habit puts there differs by 0.08 and more.
_TOLERANCE = 0.065
_NEAR = 0.3  # of the face's size: how far its middle may seem to move from view to view


def confirm(image_bchw: Tensor, face: FaceDetection, detector: FaceDetector) -> tuple[FaceDetection, bool] | None:
    """The same face with the points that hold when the picture is turned, and whether any do.

    Blurred faces, and those that the picture's edge cuts, are seen again with other points, and stay as they were
    found. None is what is seen in no view again.

    Args:
        image_bchw: the picture (1, 3, H, W) in [-1, 1].
        face: what the detector found in it.
        detector: the one that found it.
    """
    factor = face.size_px / _FACE_PX
    if factor <= 2.0:
        return _confirm(image_bchw, face, detector)
    # Views of a larger face would be sampled from few of its pixels: noise, not a face.
    height, width = image_bchw.shape[-2:]
    reduced = resize_bchw(image_bchw, (max(1, round(height / factor)), max(1, round(width / factor))))
    to_picture = pixel_scaling(width / reduced.shape[3], height / reduced.shape[2])
    looked = _confirm(reduced, face.moved(torch.linalg.inv(to_picture)), detector)
    if looked is None:
        return None
    again, agreed = looked
    if agreed:
        face = dataclasses.replace(face, landmarks=transform_points(to_picture, again.landmarks))
    return face, agreed


def _confirm(image_bchw: Tensor, face: FaceDetection, detector: FaceDetector) -> tuple[FaceDetection, bool] | None:
    best, least = _agreed(image_bchw, face, detector)
    if least > _TOLERANCE:  # perhaps it lies, or stands on its head
        circle = [_look(image_bchw, face, detector, _roll(face) + turn) for turn in range(0, 360, _STEP)]
        neighbours = zip(circle, [circle[-1], *circle[:-1]], [*circle[1:], circle[0]])
        likely = sorted(((_disagreement(*three), three[0]) for three in neighbours), key=lambda pair: pair[0])
        for _, look in likely[:_TRIED]:
            if look is not None:
                again, distance = _agreed(image_bchw, look, detector)
                if distance < least:
                    best, least = again, distance
        if not any(circle):
            return None
    if best is None or least > _TOLERANCE:
        return face, False
    return dataclasses.replace(face, landmarks=best.landmarks), True


def _agreed(image: Tensor, face: FaceDetection, detector: FaceDetector) -> tuple[FaceDetection | None, float]:
    """The face shown upright, if its points are where they should be, and how far its neighbours' are from them."""
    roll = _roll(face)
    look, before, after = (_look(image, face, detector, roll + turn) for turn in (0, -_STEP, _STEP))
    return look, _disagreement(look, before, after)


def _disagreement(look: FaceDetection | None, before: FaceDetection | None, after: FaceDetection | None) -> float:
    """How far a look's points are from its neighbours', in sizes of the face; infinite where nothing was seen."""
    seen = [other for other in (before, after) if other is not None]
    if look is None or not seen:
        return math.inf
    return max(float((look.landmarks - other.landmarks).norm(dim=1).mean()) for other in seen) / look.size_px


def _look(image: Tensor, face: FaceDetection, detector: FaceDetector, degrees: float) -> FaceDetection | None:
    """What the detector finds at this place when a face of this roll is shown upright."""
    centre = _centre(face)
    scale = face.size_px / _FACE_PX
    cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    middle = (_VIEW_PX - 1) / 2
    to_picture = shift(*centre.tolist()) @ rotation @ shift(-middle, -middle)
    found = [seen.moved(to_picture) for seen in detector.detect(warp(image, to_picture, (_VIEW_PX, _VIEW_PX)))]
    nearest = min(found, key=lambda seen: float((_centre(seen) - centre).norm()), default=None)
    if nearest is None or float((_centre(nearest) - centre).norm()) > _NEAR * face.size_px:
        return None
    return nearest


def _centre(face: FaceDetection) -> Tensor:
    return (face.box_xyxy[:2] + face.box_xyxy[2:]) / 2


def _roll(face: FaceDetection) -> float:
    """Degrees, clockwise as one sees it, by which the face is tilted: 0 where the eyes lie above the mouth."""
    down = face.landmarks[3:].mean(dim=0) - face.landmarks[:2].mean(dim=0)
    return math.degrees(math.atan2(-float(down[0]), float(down[1])))
