"""Five facial points, wherever they come from: a detector, the user, a box, or the many points of other tools.

The five points are left eye, right eye, nose, left corner of the mouth, right corner, as a viewer sees them on the
upright face ("left" is the viewer's left). Coordinates are (x, y) in pixels; whole numbers are the centres of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..shapes import check_shape

# Where the points of an upright face lie in a detector's box, as fractions of its width and height.
_IN_BOX = ((0.30, 0.40), (0.70, 0.40), (0.50, 0.60), (0.34, 0.78), (0.66, 0.78))
# Where the FFHQ rule puts the points of a frontal face whose mouth is 1.2 eye distances below the eyes and 0.8 of them
# wide: the crop's side is 1.8 * 1.2 * 2 = 4.32 eye distances, its centre a tenth of the way from the eyes to the mouth.
_IN_CROP = ((0.3843, 0.4722), (0.6157, 0.4722), (0.50, 0.6250), (0.4074, 0.75), (0.5926, 0.75))
# Which of many points make up each of the five: the eyes are the means of their outlines, as in the FFHQ recipe.
_IBUG = (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,))
_INSIGHTFACE = ((35, 36, 37, 39, 41, 42), (89, 90, 91, 93, 95, 96), (86,), (52,), (61,))
_MEDIAPIPE = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380), (1,), (61,), (291,))
_LAYOUTS = {  # number of points -> the five
    5: ((0,), (1,), (2,), (3,), (4,)),
    68: _IBUG,  # iBUG 300-W: dlib, face-alignment
    70: _IBUG,  # the same and the pupils: OpenPose, DWPose
    106: _INSIGHTFACE,  # InsightFace 2d106det
    468: _MEDIAPIPE,  # MediaPipe's face mesh
    478: _MEDIAPIPE,  # the same and the irises
}


def check_landmarks(landmarks: Tensor) -> Tensor:
    """Return five points (5, 2) as float32 on the CPU; PIDiffError where they cannot be those of a face."""
    check_shape(landmarks, "5 2", name="The landmarks (left eye, right eye, nose, left and right corner of the mouth)")
    points = landmarks.detach().float().cpu()
    if not torch.isfinite(points).all():
        raise PIDiffError("The landmarks hold numbers that are not finite.")
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    if (points[1] - points[0]).norm() < 1.0 or (mouth - eyes).norm() < 1.0:
        raise PIDiffError(
            f"The landmarks {points.tolist()} are no face: two eyes and a mouth should lie at least a pixel apart. "
            "Give them in pixels, in the order left eye, right eye, nose, left and right corner of the mouth."
        )
    return points


def five_points(points: Tensor) -> Tensor:
    """Reduce the points (N, 2) of a face, in one of the known layouts, to the five (5, 2).

    Known are 5, 68 (iBUG), 70 (OpenPose), 106 (InsightFace), 468 and 478 points (MediaPipe).
    """
    if len(points) not in _LAYOUTS:
        raise PIDiffError(
            f"{len(points)} landmarks were given, but 5 (eyes, nose, corners of the mouth), 2 (corners of a box), "
            "68 (iBUG), 70 (OpenPose), 106 (InsightFace), 468 or 478 (MediaPipe) are expected."
        )
    return check_landmarks(torch.stack([points[list(group)].mean(dim=0) for group in _LAYOUTS[len(points)]]))


def are_complete(points: Tensor) -> bool:
    """Whether none of the points that make up the five is missing (NaN)."""
    needed = [index for group in _LAYOUTS.get(len(points), ()) for index in group]
    return not bool(points[needed].isnan().any())


def landmarks_in_box(box_xyxy: Tensor) -> Tensor:
    """The five points (5, 2) of an average upright face that fills the box (left, top, right, bottom)."""
    check_shape(box_xyxy, "4", name="The face's box (left, top, right, bottom)")
    corner, size = box_xyxy[:2].float().cpu(), (box_xyxy[2:] - box_xyxy[:2]).float().cpu()
    if not torch.isfinite(box_xyxy).all() or size.min() < 4.0:
        raise PIDiffError(
            f"The face's box {box_xyxy.tolist()} should be left, top, right, bottom, at least 4 px a side."
        )
    return corner + torch.tensor(_IN_BOX) * size


def landmarks_in_crop(size_px: int) -> Tensor:
    """The five points (5, 2) of an average frontal face in an FFHQ-aligned crop of that size."""
    return torch.tensor(_IN_CROP) * size_px - 0.5
