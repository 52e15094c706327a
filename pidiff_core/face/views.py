"""The ways in which a picture is shown to a detector that finds no face at the first try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..images import resize_bchw
from .geometry import pixel_scaling, shift, turn

_MAX_ENLARGEMENT = 4.0  # beyond that there is nothing to see but the interpolation


@dataclass(frozen=True)
class View:
    """One way to show the picture."""

    long_side_px: int  # the picture is scaled so that its longer side has at most (or, with `enlarge`, exactly) this
    enlarge: bool = False  # small faces
    border: float = 0.0  # plain border around it, in longer sides: faces that fill or leave the picture
    degrees: int = 0  # counter-clockwise: lying, tilted and upside-down faces


# The likely and the quick ones first. Detectors see faces that are tilted by some 30 degrees, so that steps of 45 leave
# no angle out.
VIEWS = (
    View(1024),
    View(640, border=0.35),
    View(1024, enlarge=True),
    *(View(640, border=0.2, degrees=degrees) for degrees in (90, 270, 180)),
    View(320, enlarge=True, border=0.6),
    View(2048, enlarge=True),
    *(View(640, border=0.2, degrees=degrees) for degrees in (45, 315, 135, 225)),
)


def show(image_bchw: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """The picture (1, 3, H, W) as it looks in this view (1, 3, h, w), and the matrix (3, 3): view px -> picture px."""
    height, width = image_bchw.shape[-2:]
    scale = min(view.long_side_px / max(height, width), _MAX_ENLARGEMENT)
    if not view.enlarge:
        scale = min(scale, 1.0)
    shown = resize_bchw(image_bchw, (max(1, round(height * scale)), max(1, round(width * scale))))
    to_picture = pixel_scaling(width / shown.shape[3], height / shown.shape[2])
    if margin_px := round(view.border * max(shown.shape[-2:])):
        # A plain grey border: a mirrored one would show faces that are not there.
        shown = F.pad(shown, (margin_px,) * 4, value=0.0)
        to_picture = to_picture @ shift(-margin_px, -margin_px)
    if view.degrees:
        shown, to_bordered = turn(shown, view.degrees)
        to_picture = to_picture @ to_bordered
    return shown, to_picture


def all_views(image_bchw: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What `show` makes of every view in turn, without those that look like an earlier one."""
    seen: set[tuple[float, ...]] = set()
    for view in VIEWS:
        shown, to_picture = show(image_bchw, view)
        key = (*shown.shape, *to_picture.flatten().tolist())
        if key not in seen:  # a large picture is not enlarged: the same view again
            seen.add(key)
            yield shown, to_picture
