"""The terms of the identity-tailored fine-tuning, each a function of predictions and masks.

Every term is one value a sample: the batch's loss is then the same however its rows are shared out over processes
and accumulation steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from .sampling import site_rows


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample of (B, C, h, w), cells weighted by the mask (B, 1, h, w): (B,); 0 for an empty one."""
    weight = mask.expand_as(values)
    return reduce(values * weight, "b c h w -> b", "sum") / reduce(weight, "b c h w -> b", "sum").clamp_min(1.0)


def face_noise_loss(prediction: Tensor, target: Tensor, *, mask: Tensor, outside: float) -> Tensor:
    """Squared error with weight 1 on the face and `outside` elsewhere, normalised: (B,). Stage 1 has outside = 0."""
    weight = mask + outside * (1 - mask)
    return masked_mean((prediction - target).square(), weight)


def kept_background_loss(prediction: Tensor, base: Tensor, *, mask: Tensor) -> Tensor:
    """Outside the face the prediction equals the frozen base's: (B,)."""
    return masked_mean((prediction - base).square(), 1 - mask)


def disentanglement_loss(prediction: Tensor, exchanged: Tensor, *, mask: Tensor) -> Tensor:
    """Outside the face the prediction does not change when the identity is exchanged or edited: (B,)."""
    return masked_mean((prediction - exchanged).square(), 1 - mask)


def localisation_loss(maps: Mapping[str, Tensor], *, mask: Tensor) -> Tensor:
    """Cross-entropy of every site's 1 - p(null) (B, N) with the mask (B, 1, h, w) at the site's resolution: (B,)."""
    total = mask.new_zeros(len(mask))
    size = mask.shape[-2:]
    for localisation in maps.values():
        rows = site_rows(localisation.shape[1], (size[0], size[1]))
        target = rearrange(F.adaptive_avg_pool2d(mask, (rows, localisation.shape[1] // rows)), "b 1 h w -> b (h w)")
        # In fp32 and by hand: binary_cross_entropy is not allowed under autocast.
        p = localisation.float().clamp(1e-4, 1 - 1e-4)
        total = total - (target * p.log() + (1 - target) * torch.log1p(-p)).mean(dim=1)
    return total / max(1, len(maps))


def min_snr_weights(alphas_cumprod: Tensor, timesteps: Tensor, *, gamma: float, prediction: str) -> Tensor:
    """Min-SNR weighting of the noise loss (Hang et al. 2023): (B,).

    min(SNR, gamma) / SNR for a base that predicts epsilon, min(SNR, gamma) / (SNR + 1) for v.
    """
    alphas = alphas_cumprod.to(timesteps.device)[timesteps]
    snr = (alphas / (1 - alphas)).clamp_min(1e-8)
    return snr.clamp_max(gamma) / (snr if prediction == "epsilon" else snr + 1)
