"""The judge of likeness: which of several people a picture shows. Trained on other renders than the adapter.

It sees aligned crops whose background is replaced by white, gives each a vector, and compares vectors by their cosine.
A second judge sees colours only, to show how much of the result is matching colours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pidiff_core.face.crop import head_mask
from pidiff_core.face.landmark_input import landmarks_in_crop

from .crops import CROP_PX, cut

_TEMPERATURE = 0.1


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.layers(x))


class Judge(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] -> unit vectors (B, 64)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 96):
            layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU(), _Block(width)]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(96 * 16, 64)

    def forward(self, crops: Tensor) -> Tensor:
        features = F.avg_pool2d(self.body(crops), 2)
        return F.normalize(self.head(features.flatten(1)).float(), dim=1)


def likeness_loss(judge: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """InfoNCE (van den Oord et al. 2018): two pictures of each of B people; the other people are the negatives.

    first, second (B, 3, 64, 64).
    """
    vectors = judge(torch.cat([batch["first"], batch["second"]]))
    first, second = vectors.chunk(2)
    logits = first @ second.T / _TEMPERATURE
    target = torch.arange(len(first), device=logits.device)
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    return {"loss": loss, "right": (logits.argmax(dim=1) == target).float().mean()}


def colour_vectors(crops: Tensor) -> Tensor:
    """The colour-only judge: (B, 3, 64, 64) -> (B, 9), mean colours of hair, skin and lower face, at fixed places.

    Compare them by `colour_similarity`.
    """
    regions = ((slice(12, 22), slice(20, 44)), (slice(26, 42), slice(20, 44)), (slice(44, 54), slice(24, 40)))
    means = [crops[:, :, rows, columns].mean(dim=(2, 3)) for rows, columns in regions]
    return rearrange(torch.stack(means, dim=1), "b r c -> b (r c)")


def similarity(vectors: Tensor, gallery: Tensor) -> Tensor:
    """Cosine of the judge's vectors: (A, 64), (B, 64) -> (A, B)."""
    return vectors @ gallery.T


def colour_similarity(colours: Tensor, gallery: Tensor) -> Tensor:
    """Minus the distance of colours: (A, 9), (B, 9) -> (A, B)."""
    return -torch.cdist(colours, gallery)


def judged_crops(images: Tensor, landmarks: Tensor) -> Tensor:
    """The input of both judges: aligned heads, white outside of the geometric head mask.

    images (B, 3, H, W) in [-1, 1]; landmarks (B, 5, 2) px. Returns (B, 3, 64, 64).
    """
    crops = cut(images, landmarks)
    mask = head_mask(landmarks_in_crop(CROP_PX), size=(CROP_PX, CROP_PX))
    return crops * mask + (1 - mask)
