"""A base's networks from their configurations and weights, filled strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...files.foreign.stable_diffusion import autoencoder_names, restored, unet_names
from ...files.weights import load_strict
from .base import Autoencoder

State = Mapping[str, Tensor]

UNUSED_TEXT = ("position_ids", "logit_scale", "text_projection", "text_projection.weight", "attn_mask")
LATENT_SCALES = {"sd15": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def build_unet(config: Mapping[str, Any], state: State, *, dtype: torch.dtype, name: str, rename: bool) -> nn.Module:
    """A UNet2DConditionModel. rename: the weights have a checkpoint's names."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config))
    return _filled(unet, state, unet_names if rename else None, dtype=dtype, name=f"the UNet of {name}")


def build_autoencoder(
    config: Mapping[str, Any], state: State, *, dtype: torch.dtype, name: str, rename: bool
) -> Autoencoder:
    """An AutoencoderKL."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        kl = AutoencoderKL.from_config(dict(config))
    names = autoencoder_names if rename else None
    return Autoencoder(_filled(kl, state, names, dtype=dtype, name=f"the autoencoder of {name}")).requires_grad_(False)


def _filled(
    module: nn.Module,
    state: State,
    names: Callable[[Any], dict[str, str]] | None,
    *,
    dtype: torch.dtype,
    name: str,
) -> nn.Module:
    weights = state if names is None else restored(state, names(module.state_dict()))
    load_strict(module, weights, name=name, dtype=dtype)
    return module.eval().requires_grad_(False)
