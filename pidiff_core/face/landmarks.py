"""Five facial points, wherever they come from: a detector, the user, a box, or the 68 points of other tools.

The five points are left eye, right eye, nose, left corner of the mouth, right corner, as a viewer sees them on the
upright face ("left" is the viewer's left). Coordinates are (x, y) in pixels; whole numbers are the centres of pixels.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..shapes import check_shape

# Where the points of an upright face lie in a detector's box, as fractions of its width and height.
_IN_BOX = ((0.30, 0.40), (0.70, 0.40), (0.50, 0.60), (0.34, 0.78), (0.66, 0.78))
# Where the FFHQ rule puts the points of a frontal face whose mouth is 1.2 eye distances below the eyes and 0.8 of them
# wide: the crop's side is 1.8 * 1.2 * 2 = 4.32 eye distances, its centre a tenth of the way from the eyes to the mouth.
_IN_CROP = ((0.3843, 0.4722), (0.6157, 0.4722), (0.50, 0.6250), (0.4074, 0.75), (0.5926, 0.75))
# Which of the 68 points (iBUG order: eyes 36-47, nose 30, mouth 48 and 54) make up each of the five.
_FROM_68 = (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,))


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


def parse_points(text: str) -> Tensor:
    """Read "x,y x,y ..." (any separators) into points (N, 2) in pixels; PIDiffError where they are no pairs."""
    words = re.split(r"[\s,;()\[\]]+", text.strip(" \t\r\n,;()[]"))
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise PIDiffError(
            f"The landmarks '{text}' are not numbers. Write pixels as 'x,y x,y x,y x,y x,y' (left eye, right eye, "
            "nose, left and right corner of the mouth), or a box as 'left,top right,bottom'."
        ) from error
    if len(numbers) % 2:
        raise PIDiffError(f"The landmarks '{text}' are {len(numbers)} numbers, which do not make pairs of x and y.")
    return torch.tensor(numbers).reshape(-1, 2)


def are_landmarks(text: str) -> bool:
    """Whether this text is meant as points of a face, and not as nothing or as boxes (two points in every line)."""
    counts = [len(parse_points(line)) for line in text.splitlines() if line.strip()]
    return sum(counts) >= 5 and set(counts) != {2}


def five_points(points: Tensor) -> Tensor:
    """Reduce 5 points, 2 corners of a box (left, top; right, bottom) or 68 iBUG points to the five (5, 2)."""
    if len(points) == 5:
        return check_landmarks(points)
    if len(points) == 2:
        return landmarks_in_box(points.flatten())
    if len(points) == 68:
        return check_landmarks(torch.stack([points[list(group)].mean(dim=0) for group in _FROM_68]))
    raise PIDiffError(
        f"{len(points)} landmarks were given, but 5 (eyes, nose, corners of the mouth), 2 (corners of a box) or 68 are "
        "expected."
    )


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
