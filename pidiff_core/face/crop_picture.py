"""A crop as people check it: what was kept of it, and the points that it was aligned by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images import bchw_to_bhwc, bhwc_to_bchw, resize_bchw
from ..shapes import check_shape

_SIDE_PX = 256
_RADIUS_PX = 3.5
_POINT = (0.1, 0.9, 0.3)  # RGB
_RIM_PX = 1.5  # black around each point, so that it is seen on every skin
_DARK = 0.35  # brightness of what was removed


def crop_pictures(crops_bhwc: Tensor, masks_b1hw: Tensor, landmarks: Tensor) -> Tensor:
    """Crops with what is outside of their masks darkened, and dots at their landmarks.

    Args:
        crops_bhwc: (N, H, H, 3) in [0, 1], with their background.
        masks_b1hw: (N, 1, H, H) in [0, 1], 1 = kept.
        landmarks: (N, P, 2) in the crops' pixels.

    Returns:
        (N, 256, 256, 3) in [0, 1].
    """
    side = check_shape(crops_bhwc, "N H H 3", name="the crops")["H"]
    images = (resize_bchw(bhwc_to_bchw(crops_bhwc), _SIDE_PX) + 1) / 2
    images = images * (_DARK + (1 - _DARK) * resize_bchw(masks_b1hw, _SIDE_PX))
    centres = torch.arange(_SIDE_PX, dtype=torch.float32)
    scaled = (landmarks.float() + 0.5) * _SIDE_PX / side - 0.5
    across = centres[None, None] - scaled[..., 0:1]  # (N, P, width)
    down = centres[None, None] - scaled[..., 1:2]  # (N, P, height)
    distance = (across[:, :, None, :].square() + down[..., None].square()).sqrt().amin(dim=1)[:, None]
    dot = (_RADIUS_PX + 0.5 - distance).clamp(0, 1)
    rim = (_RADIUS_PX + _RIM_PX + 0.5 - distance).clamp(0, 1)
    images = images * (1 - rim) + dot * torch.tensor(_POINT)[None, :, None, None]
    return bchw_to_bhwc(images.clamp(0, 1) * 2 - 1)
