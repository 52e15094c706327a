"""Aligned 64 px crops of drawn pictures, in batches: what the mini encoder, its generator and the judge look at."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pidiff_core.face.crop import ffhq_quad, head_mask
from pidiff_core.face.landmark_input import landmarks_in_crop

from .data import Pictures
from .render import domain_randomise

CROP_PX = 64
_OVERSAMPLING = 2


def cut(images: Tensor, landmarks: Tensor, *, size: int = CROP_PX, outside: float = 1.0) -> Tensor:
    """FFHQ-aligned crops of a batch, without mirroring at the border (what is outside becomes `outside`).

    images (B, C, H, W); landmarks (B, 5, 2) in px, whole numbers at pixel centres. Returns (B, C, size, size).
    """
    quads = torch.stack([ffhq_quad(points) for points in landmarks])
    fine = size * _OVERSAMPLING
    steps = (torch.arange(fine) + 0.5) / fine
    across, down = quads[:, 3] - quads[:, 0], quads[:, 1] - quads[:, 0]
    points = (
        quads[:, None, None, 0]
        + steps[None, None, :, None] * across[:, None, None]
        + steps[None, :, None, None] * down[:, None, None]
    )
    height, width = images.shape[-2:]
    grid = (points + 0.5) / torch.tensor([width, height]) * 2 - 1
    crops = F.grid_sample(images - outside, grid.to(images), align_corners=False) + outside
    return F.avg_pool2d(crops, _OVERSAMPLING)


def labelled_crops(
    pictures: Pictures, indices: np.ndarray, *, rng: np.random.Generator, jitter: float, size: int = CROP_PX
) -> Tensor:
    """(B, 4, size, size): RGB in [-1, 1] with its background, and the exact head mask, aligned by jittered landmarks.

    jitter: standard deviation of each landmark coordinate, as a part of the eyes' distance.
    """
    points = pictures.landmarks[indices] - 0.5  # the renderer's pixel centres are at .5
    eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=-1)[:, None, None]
    points = points + rng.standard_normal(points.shape) * jitter * eyes
    stacked = torch.cat([pictures.image_batch(indices), pictures.mask_batch(indices) * 2 - 1], dim=1)
    crops = cut(stacked, torch.from_numpy(points).float(), size=size, outside=-1.0)
    return torch.cat([crops[:, :3], (crops[:, 3:] + 1) / 2], dim=1)


def on_white(crops: Tensor) -> Tensor:
    """(B, 4, h, w) of `labelled_crops` -> (B, 3, h, w): all but the head is white."""
    image, mask = crops[:, :3], crops[:, 3:]
    return image * mask + (1 - mask)


def as_encountered(crops: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Encoder inputs (B, 3, h, w): half of them spoilt as photos are, masked exactly or by the geometric mask."""
    rough = head_mask(landmarks_in_crop(crops.shape[-1]), size=tuple(crops.shape[-2:]))
    pixels = rearrange(crops[:, :3].add(1).mul(127.5).round().clamp(0, 255).byte(), "b c h w -> b h w c").numpy()
    spoilt = [domain_randomise(image, rng) if rng.random() < 0.5 else image for image in pixels]
    images = rearrange(torch.from_numpy(np.stack(spoilt)), "b h w c -> b c h w").float() / 127.5 - 1
    exact = torch.from_numpy(rng.random((len(crops), 1, 1, 1)) < 0.6)
    mask = torch.where(exact, crops[:, 3:], rough)
    return images * mask + (1 - mask)
