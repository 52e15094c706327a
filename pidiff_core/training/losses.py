"""The terms of the identity-tailored fine-tuning, each a function of predictions and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, C, h, w) over the cells where the mask (B, 1, h, w) is 1; 0 where it is empty."""
    weight = mask.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def face_noise_loss(prediction: Tensor, target: Tensor, *, mask: Tensor, outside: float) -> Tensor:
    """Squared error with weight 1 on the face and `outside` elsewhere, normalised. Stage 1 has outside = 0."""
    weight = mask + outside * (1 - mask)
    return masked_mean((prediction - target).square(), weight)


def kept_background_loss(prediction: Tensor, base: Tensor, *, mask: Tensor) -> Tensor:
    """Outside the face the prediction equals the frozen base's."""
    return masked_mean((prediction - base).square(), 1 - mask)


def disentanglement_loss(prediction: Tensor, exchanged: Tensor, *, mask: Tensor) -> Tensor:
    """Outside the face the prediction does not change when the identity is exchanged or edited."""
    return masked_mean((prediction - exchanged).square(), 1 - mask)


def localisation_loss(maps: Mapping[str, Tensor], *, mask: Tensor) -> Tensor:
    """Cross-entropy of every site's 1 - p(null) (B, N) against the mask (B, 1, h, w) at the site's own resolution."""
    total = mask.new_zeros(())
    height, width = mask.shape[-2:]
    for localisation in maps.values():
        factor = round((height * width / localisation.shape[1]) ** 0.5)
        target = rearrange(F.avg_pool2d(mask, factor), "b 1 h w -> b (h w)")
        # In fp32 and by hand: binary_cross_entropy is not allowed under autocast.
        p = localisation.float().clamp(1e-4, 1 - 1e-4)
        total = total - (target * p.log() + (1 - target) * torch.log1p(-p)).mean()
    return total / max(1, len(maps))
