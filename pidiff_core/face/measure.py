"""What can be read off a portrait with five landmarks: pose, mouth, colours of skin and hair."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import check_interrupted
from ..images import check_image_bchw
from .search import FaceDetector

# Name -> what a larger value means.
MEASURES = {
    "yaw": "nose to the right of the middle of the eyes",
    "pitch": "nose nearer to the mouth than to the eyes",
    "smile": "mouth wide for the distance of the eyes",
    "face length": "mouth far below the eyes for their distance",
    "skin lightness": "light cheeks and nose",
    "hair lightness": "light above the forehead",
}
_PATCH = 0.12  # half the side of a patch of colour, in distances of the eyes


def measure_portraits(
    portraits_bchw: Tensor, detector: FaceDetector, *, on_progress: Callable[[float], None] | None = None
) -> dict[str, Tensor]:
    """One value of each of MEASURES for each portrait.

    Args:
        portraits_bchw: (B, 3, H, H) in [-1, 1].
        detector: finds the five points.
        on_progress: called with the fraction of the work that is done, from 0 to 1.

    Returns:
        Name -> (B,); NaN if no face was found. Lengths are in distances of the eyes, lightness in [0, 1].
    """
    check_image_bchw(portraits_bchw, name="the portrait")
    rows = []
    for number, portrait in enumerate(portraits_bchw.split(1)):
        check_interrupted()
        faces = detector.detect(portrait)
        rows.append(
            _measured(portrait, max(faces, key=lambda face: face.size_px).landmarks)
            if faces
            else torch.full((len(MEASURES),), torch.nan)
        )
        if on_progress is not None:
            on_progress((number + 1) / len(portraits_bchw))
    return dict(zip(MEASURES, torch.stack(rows, dim=1)))


def _measured(portrait: Tensor, landmarks: Tensor) -> Tensor:
    left, right, nose, mouth_left, mouth_right = landmarks.float().cpu()
    across = right - left
    unit_px = across.norm().clamp_min(1e-3)
    x_axis = across / unit_px
    y_axis = torch.stack([-x_axis[1], x_axis[0]])
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
