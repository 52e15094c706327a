"""What can be measured on a portrait: pose, mouth and colours at five landmarks; eyes and width with a face parser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import check_interrupted
from ..images import check_image_bchw
from .parsers.face_parser import FaceParser
from .search import FaceDetector

# Name -> what a larger value means. The first need landmarks only, the second a face parser, too.
MEASURES = {
    "yaw": "nose to the right of the middle of the eyes",
    "pitch": "nose nearer to the mouth than to the eyes",
    "smile": "mouth wide for the distance of the eyes",
    "face length": "mouth far below the eyes for their distance",
    "skin lightness": "light cheeks and nose",
    "hair lightness": "light above the forehead",
}
PARSED_MEASURES = {
    "eyes open": "eyes high for their width",
    "face width": "face wide beside the nose, without ears and hair, for the distance of the eyes",
}
# In distances of the eyes:
_PATCH = 0.12  # half the side of a patch of colour
_EYE = 0.4  # an eye is within this distance of its landmark
_BAND = 0.1  # half the height of the band in which the width is measured
_LEAST_PX = 12  # of an eye in the parser's mask


def measure_portraits(
    portraits_bchw: Tensor,
    detector: FaceDetector,
    *,
    parser: FaceParser | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Tensor]:
    """One value of each of MEASURES for each portrait, and with a parser of each of PARSED_MEASURES.

    Args:
        portraits_bchw: (B, 3, H, H) in [-1, 1].
        detector: finds the five points.
        parser: finds eyes and face.
        on_progress: called with the fraction of the work that is done, from 0 to 1.

    Returns:
        Name -> (B,); NaN if no face was found, or no eyes by the parser. Lengths are in distances of the eyes,
        lightness in [0, 1], *eyes open* is height over width.
    """
    check_image_bchw(portraits_bchw, name="the portrait")
    names = [*MEASURES] if parser is None else [*MEASURES, *PARSED_MEASURES]
    rows = []
    for number, portrait in enumerate(portraits_bchw.split(1)):
        check_interrupted()
        faces = detector.detect(portrait)
        if faces:
            landmarks = max(faces, key=lambda face: face.size_px).landmarks.float().cpu()
            row = _measured(portrait, landmarks)
            rows.append(row if parser is None else torch.cat([row, _parsed(portrait, landmarks, parser)]))
        else:
            rows.append(torch.full((len(names),), torch.nan))
        if on_progress is not None:
            on_progress((number + 1) / len(portraits_bchw))
    return dict(zip(names, torch.stack(rows, dim=1)))


def _frame(landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of the eyes in px, and the unit vectors from eye to eye and down the face."""
    across = landmarks[1] - landmarks[0]
    unit_px = across.norm().clamp_min(1e-3)
    x_axis = across / unit_px
    return unit_px, x_axis, torch.stack([-x_axis[1], x_axis[0]])


def _measured(portrait: Tensor, landmarks: Tensor) -> Tensor:
    left, right, nose, mouth_left, mouth_right = landmarks
    unit_px, x_axis, y_axis = _frame(landmarks)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    down = ((mouth - eyes) @ y_axis).clamp_min(1e-3)

    def lightness(*points: Tensor) -> Tensor:
        reach = max(1, round(float(unit_px) * _PATCH))
        height, width = portrait.shape[-2:]
        found = []
        for x, y in (point.round().int().tolist() for point in points):
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            patch = portrait[0, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            found.append(patch.float().mean() * 0.5 + 0.5)
        return torch.stack(found).mean()

    cheeks = [eye + 0.6 * (mouth - eyes) for eye in (left, right)]
    return torch.stack(
        [
            (nose - eyes) @ x_axis / unit_px,
            (nose - eyes) @ y_axis / down,
            (mouth_right - mouth_left).norm() / unit_px,
            down / unit_px,
            lightness(nose, *cheeks),
            lightness(eyes - 1.45 * unit_px * y_axis),
        ]
    )


def _parsed(portrait: Tensor, landmarks: Tensor, parser: FaceParser) -> Tensor:
    eyes, face = parser.eyes_and_face(portrait)
    scale = eyes.shape[-1] / portrait.shape[-1]
    points = (landmarks + 0.5) * scale - 0.5
    unit_px, x_axis, y_axis = _frame(points)

    def seen_from(origin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x and y of the mask's pixels in the frame of the face, in distances of the eyes."""
        offsets = mask[0, 0].nonzero().flip(1) - origin
        return offsets @ x_axis / unit_px, offsets @ y_axis / unit_px

    openings = []
    for eye in points[:2]:
        x, y = seen_from(eye, eyes)
        near = x.hypot(y) < _EYE
        if int(near.sum()) >= _LEAST_PX:
            openings.append(y[near].std() / x[near].std().clamp_min(1e-3))
    _, y = seen_from(points[2], face)
    area = (y.abs() < _BAND).sum() / unit_px.square()
    opening = torch.stack(openings).mean() if openings else torch.tensor(torch.nan)
    return torch.stack([opening, area / (2 * _BAND)])
