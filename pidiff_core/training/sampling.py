"""Pictures from a base with or without an identity: for sample grids, evaluation and previews."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .bases.base import Base, TextCondition, at_step
from .diffusers_processor import IdentityBinding


@torch.no_grad()
def sample(
    base: Base,
    binding: IdentityBinding | None,
    *,
    text: TextCondition,
    null_text: TextCondition,
    size_px: tuple[int, int],
    seeds: Sequence[int],
    tokens: Tensor | None = None,
    strength: float = 1.0,
    steps: int = 20,
    cfg: float = 5.0,
    size_conditions: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DDIM (Song et al. 2020, eta 0) with classifier-free guidance; the unconditional half gets no identity.

    Row i starts from noise that seeds[i] alone decides, so it does not depend on what else is in the batch.

    Args:
        base: decodes as well; its UNet is the one that `binding` is on.
        binding: the attached adapter, or None for the base alone.
        text: one caption a row (B, L, W); pooled on XL.
        null_text: the encoded empty caption, (1, L, W).
        size_px: height and width, multiples of 8.
        seeds: B of them.
        tokens: one identity a row (B, n, W), or None for the base alone.
        strength: of the identity.
        steps: evaluations of the UNet.
        cfg: guidance scale; 1 leaves the unconditional half out.
        size_conditions: (B, 6) on XL; by default those of a whole picture of this size.

    Returns:
        Pictures (B, H, W, 3) in [0, 1], and the mean localisation map over sites and steps (B, h, w) at the latents'
        size, or None without an identity. Both float32 on the CPU.
    """
    weight, batch = next(base.unet.parameters()), len(seeds)
    device, dtype = weight.device, weight.dtype  # the adapter's is float32: a base in half precision needs autocast
    height, width = size_px[0] // 8, size_px[1] // 8
    shape = (base.latent_channels, height, width)
    x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(device)
    own = base.size_conditions(size_px)
    if size_conditions is None and own is not None:
        size_conditions = own.expand(batch, -1)
    guided = cfg != 1.0
    context = text.context.to(device)
    pooled = None if text.pooled is None else text.pooled.to(device)
    if guided:
        context = torch.cat([context, null_text.context.to(device).expand_as(context)])
        if pooled is not None and null_text.pooled is not None:
            pooled = torch.cat([pooled, null_text.pooled.to(device).expand_as(pooled)])
        if size_conditions is not None:
            size_conditions = torch.cat([size_conditions, size_conditions])
    if size_conditions is not None:
        size_conditions = size_conditions.to(device)
    active = binding is not None and tokens is not None
    halves = 2 if guided else 1
    on = torch.cat([torch.ones(batch), torch.zeros(batch)])[: halves * batch].to(device)
    maps: list[Tensor] = []
    alphas = base.alphas_cumprod.to(device)
    times = torch.linspace(len(alphas) - 1, 0, steps + 1).round().long().tolist()
    for now, after in pairwise(times):
        identity = (
            binding.identity(torch.cat([tokens.to(device)] * halves), on=on, strength=strength)
            if active and binding is not None and tokens is not None
            else nullcontext(None)
        )
        at = torch.full((halves * batch,), now, device=device)
        with identity as context_now, torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            prediction = base.predict(
                torch.cat([x] * halves), at, context=context, pooled=pooled, size_conditions=size_conditions
            )
        if context_now is not None:
            maps.append(mean_map({name: one[:batch] for name, one in context_now.maps.items()}, (height, width)))
        if guided:
            with_text, without = prediction.chunk(2)
            prediction = without + cfg * (with_text - without)
        at_now, at_next = (torch.full((1,), time, device=device) for time in (now, after))
        a, b = at_step(alphas.sqrt(), at_now), at_step((1 - alphas).sqrt(), at_now)
        if base.prediction == "v":
            clean, noise = a * x - b * prediction, b * x + a * prediction
        else:
            clean, noise = (x - b * prediction) / a, prediction
        x = at_step(alphas.sqrt(), at_next) * clean + at_step((1 - alphas).sqrt(), at_next) * noise
    decoded = torch.cat(
        [base.decode_latents(row).cpu() for row in x.split(1)]
    )  # one at a time: it takes the most memory
    images_bhwc = rearrange(decoded, "b c h w -> b h w c") * 0.5 + 0.5
    return images_bhwc, torch.stack(maps).mean(dim=0).cpu() if maps else None


def mean_map(maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """The mean over sites of localisation maps (B, N), each brought to `size`: (B, h, w)."""
    grown = []
    for one in maps.values():
        rows = site_rows(one.shape[1], size)
        grown.append(F.interpolate(rearrange(one.float(), "b (h w) -> b 1 h w", h=rows), size, mode="bilinear")[:, 0])
    return torch.stack(grown).mean(dim=0)


def site_rows(pixels: int, size: tuple[int, int]) -> int:
    """Rows of a site with so many pixels, under latents of size (h, w)."""
    return round((pixels * size[0] / size[1]) ** 0.5)
