"""Points and pictures under a matrix. Coordinates are (x, y) in pixels; whole numbers are the centres of pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """(3, 3) applied to points (N, 2)."""
    return points.to(matrix) @ matrix[:2, :2].T + matrix[:2, 2]


def transform_box(matrix: Tensor, box_xyxy: Tensor) -> Tensor:
    """A box (left, top, right, bottom) after a turn and an enlargement: upright, and no larger for the turn."""
    middle = transform_points(matrix, (box_xyxy[None, :2] + box_xyxy[None, 2:]) / 2)[0]
    extent = matrix[:2, :2].abs() @ (box_xyxy[2:] - box_xyxy[:2]).to(matrix)
    extent = extent * matrix[:2, :2].det().abs().sqrt() / matrix[:2, :2].abs().sum(dim=1)
    return torch.cat([middle - extent / 2, middle + extent / 2])


def pixel_scaling(x: float, y: float | None = None) -> Tensor:
    """(3, 3): pixel centres of a picture -> those of the same picture enlarged by these factors."""
    y = x if y is None else y
    return torch.tensor([[x, 0.0, (x - 1.0) / 2.0], [0.0, y, (y - 1.0) / 2.0], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> Tensor:
    """(3, 3): move by (x, y)."""
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(image_bchw: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample a picture bilinearly: target pixel (x, y) takes the source's value at matrix @ (x, y, 1), 0 outside.

    Args:
        image_bchw: (B, C, H, W).
        matrix: (3, 3), target px -> source px.
        size: height and width of the target.
    """
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    targets = torch.stack([x, y], dim=-1).float().reshape(-1, 2)
    sources = transform_points(matrix, targets)
    extent = torch.tensor([image_bchw.shape[3], image_bchw.shape[2]], dtype=torch.float32)
    grid = rearrange((sources * 2.0 + 1.0) / extent - 1.0, "(h w) xy -> 1 h w xy", h=height)
    grid = grid.to(image_bchw).expand(len(image_bchw), -1, -1, -1)
    return F.grid_sample(image_bchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def turn(image_bchw: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Turn a picture counter-clockwise, as one sees it, about its centre; the canvas grows, its corners are 0.

    Quarter turns move pixels and change none.

    Returns:
        The turned picture (B, C, h, w), and the matrix (3, 3): turned px -> the picture's px.
    """
    height, width = image_bchw.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.rot90(image_bchw, round(degrees / 90.0), dims=(2, 3)) if degrees % 90.0 == 0 else None
    size = (
        (math.ceil(width * abs(sin) + height * abs(cos)), math.ceil(width * abs(cos) + height * abs(sin)))
        if turned is None
        else (turned.shape[2], turned.shape[3])
    )
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    to_picture = shift((width - 1) / 2, (height - 1) / 2) @ rotation @ shift(-(size[1] - 1) / 2, -(size[0] - 1) / 2)
    return (warp(image_bchw, to_picture, size) if turned is None else turned), to_picture
