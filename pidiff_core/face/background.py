"""Keeping the person and removing what is behind: a geometric mask from the landmarks, and the colour that replaces it.

W+ Adapter's preparation replaces the background by white; so does the default here.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bchw
from ..shapes import check_shape
from .landmarks import check_landmarks

COLOURS = {"white": 1.0, "grey": 0.0, "black": -1.0}  # in [-1, 1]

# The head as an egg in the face's own frame, in units of d = max(eye distance, 0.9 * eyes to mouth), origin between the
# eyes, y downwards: half the width, the crown, the chin and the widest line. Hair is part of a person, so it is inside.
_HALF_WIDTH, _CROWN, _CHIN, _WIDEST = 1.45, -1.85, 1.9, -0.1
_FEATHER = 0.18  # width of the soft edge, in d


def head_mask(landmarks: Tensor, *, size: tuple[int, int]) -> Tensor:
    """A feathered mask (1, 1, H, W) of the head (face and hair), 1 inside, from five points (5, 2) in px."""
    points = check_landmarks(landmarks)
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    down = (mouth - eyes) / (mouth - eyes).norm()
    across = torch.stack([down[1], -down[0]])
    unit_px = max(float((points[1] - points[0]).norm()), 0.9 * float((mouth - eyes).norm()))
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = (torch.stack([x, y], dim=-1).float() - eyes) / unit_px
    u, v = offset @ across, offset @ down - _WIDEST
    half_height = torch.where(v < 0, _WIDEST - _CROWN, _CHIN - _WIDEST)
    radius = torch.sqrt((u / _HALF_WIDTH).square() + (v / half_height).square())
    # Distance to the egg's edge in units of d, near enough for a soft edge; half of the edge lies inside.
    distance = (1.0 - radius) * _HALF_WIDTH
    mask = (distance / _FEATHER + 0.5).clamp(0.0, 1.0)
    return rearrange(mask * mask * (3.0 - 2.0 * mask), "h w -> 1 1 h w")


def soften(mask_b1hw: Tensor) -> Tensor:
    """A mask with hard edges (B, 1, H, W), blurred by the 5x5 Gaussian of W+ Adapter's preparation."""
    check_shape(mask_b1hw, "B 1 H W", name="the mask")
    if min(mask_b1hw.shape[-2:]) < 5:
        return mask_b1hw
    from kornia.filters import filter2d_separable  # takes 0.2 s to import, which ComfyUI's start should not

    taps = torch.tensor([[1.0, 4.0, 6.0, 4.0, 1.0]]).to(mask_b1hw) / 16.0  # OpenCV's Gaussian of 5 taps is the binomial
    return filter2d_separable(mask_b1hw, taps, taps, border_type="reflect")


def remove_background(image_bchw: Tensor, mask_b1hw: Tensor, *, colour: str = "white") -> Tensor:
    """Replace what the mask leaves out: image (B, 3, H, W) in [-1, 1], mask (B, 1, H, W) with 1 = keep.

    Raises:
        PIDiffError: sizes that do not agree, or a colour other than white, grey, black.
    """
    sizes = check_image_bchw(image_bchw)
    check_shape(mask_b1hw, f"B 1 {sizes['H']} {sizes['W']}", name="the mask of the crop")
    if colour not in COLOURS:
        raise PIDiffError(f"The background's colour should be one of {', '.join(COLOURS)}, but it is '{colour}'.")
    keep = mask_b1hw.to(image_bchw).clamp(0.0, 1.0)
    return image_bchw * keep + COLOURS[colour] * (1.0 - keep)
