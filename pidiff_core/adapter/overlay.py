"""Maps to look at: a heat map, and the same laid over a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bhwc
from ..shapes import check_shape

# The colours at equal steps from 0 to 1: dark blue, violet, red, yellow; even in brightness, so that it reads in grey.
_COLOURS = ((0.02, 0.03, 0.15), (0.35, 0.07, 0.43), (0.80, 0.22, 0.33), (0.98, 0.57, 0.20), (0.99, 0.98, 0.65))
_OPACITY = 0.65  # at the map's maximum


def resize_maps(maps_bhw: Tensor, size: tuple[int, int], *, stretch: bool) -> Tensor:
    """Maps (B, h, w) in [0, 1] at the size of a picture (height, width), each stretched to the whole range if asked."""
    check_shape(maps_bhw, "B H W", name="the maps")
    if stretch:
        low, high = maps_bhw.amin(dim=(1, 2), keepdim=True), maps_bhw.amax(dim=(1, 2), keepdim=True)
        maps_bhw = (maps_bhw - low) / (high - low).clamp_min(1e-6)
    return F.interpolate(maps_bhw[:, None].float(), size, mode="bicubic")[:, 0].clamp(0.0, 1.0)


def heat(maps_bhw: Tensor) -> Tensor:
    """Maps (B, H, W) in [0, 1] -> image_bhwc (B, H, W, 3) in [0, 1]."""
    colours = torch.tensor(_COLOURS, device=maps_bhw.device)
    place = maps_bhw.float().clamp(0.0, 1.0) * (len(colours) - 1)
    lower = place.floor().long().clamp(max=len(colours) - 2)
    return torch.lerp(colours[lower], colours[lower + 1], (place - lower)[..., None])


def overlay(maps_bhw: Tensor, image_bhwc: Tensor) -> Tensor:
    """The heat of a map over its picture, transparent at 0: image_bhwc (B, H, W, 3) in [0, 1].

    Raises:
        PIDiffError: another number of pictures than of maps, or another size.
    """
    picture = check_image_bhwc(image_bhwc).float().to(maps_bhw.device)
    if picture.shape[1:3] != maps_bhw.shape[1:] or len(picture) != len(maps_bhw):
        raise PIDiffError(
            f"{len(maps_bhw)} maps of {maps_bhw.shape[2]}x{maps_bhw.shape[1]} pixels do not match {len(picture)} "
            f"pictures of {picture.shape[2]}x{picture.shape[1]}. Give the picture that was decoded from this latent."
        )
    opacity = _OPACITY * maps_bhw.float()[..., None]
    return picture * (1.0 - opacity) + heat(maps_bhw) * opacity
