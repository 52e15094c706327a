"""Writes the embedded bundle, and the judge's file to this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from pidiff_core.files.container import read_container, write_container
from pidiff_core.files.foreign.stable_diffusion import autoencoder_names, clip_names, renamed, unet_names
from pidiff_core.files.weights import load_strict
from pidiff_core.mini.bundle import BASE, IDENTITY
from pidiff_core.mini.cell_codec import PREFIX as CELLS
from pidiff_core.model import PIDiffModel

from .autoencoder import CHANNELS as AUTOENCODER_CHANNELS
from .autoencoder import LATENT_CHANNELS, LATENT_SCALE, UNSHUFFLE, MiniAutoencoder
from .base import BETA_END, BETA_START, CHANNELS, CONTEXT_WIDTH, HEAD_WIDTH, MiniBase, text_config
from .judge import Judge

JUDGE_FOLDER, JUDGE = Path(__file__).parent, "judge.safetensors"
_LAYERS = 1
_NETWORKS = ("adapter", "encoder", "generator")


def save_base(folder: Path, base: MiniBase, autoencoder: MiniAutoencoder, *, latent_rgb: Tensor, notes: dict) -> None:
    """Write base.safetensors. latent_rgb (8, 3): what each normalised latent channel adds to R, G, B in [0, 1]."""
    kl = autoencoder.fold_normalisation()
    parts = {
        "model.diffusion_model.": (base.unet, unet_names),
        "cond_stage_model.": (base.text, clip_names),
        "first_stage_model.": (kl, autoencoder_names),
    }
    tensors = {
        prefix + key: tensor
        for prefix, (network, names) in parts.items()
        for key, tensor in stored(renamed(network.state_dict(), names(network.state_dict()))).items()
    }
    tensors |= {f"{CELLS}{key}": tensor for key, tensor in stored(autoencoder.cells.state_dict()).items()}
    config = {
        "unet": {
            "image_size": 16,
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "model_channels": CHANNELS[0],
            "channel_mult": [width // CHANNELS[0] for width in CHANNELS],
            "num_res_blocks": [_LAYERS] * len(CHANNELS),
            "transformer_depth": [1] * (_LAYERS * len(CHANNELS)),
            "transformer_depth_output": [1] * ((_LAYERS + 1) * len(CHANNELS)),
            "transformer_depth_middle": 1,
            "num_heads": -1,
            "num_head_channels": HEAD_WIDTH,
            "use_spatial_transformer": True,
            "context_dim": CONTEXT_WIDTH,
            "legacy": False,
        },
        "text": text_config(),
        "autoencoder": {
            "double_z": True,
            "z_channels": LATENT_CHANNELS,
            "resolution": 128 // UNSHUFFLE,
            "in_channels": 3 * UNSHUFFLE**2,
            "out_ch": 3 * UNSHUFFLE**2,
            "channels": list(AUTOENCODER_CHANNELS),
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "pixel_unshuffle": UNSHUFFLE,
        "latent_scale": LATENT_SCALE,
        "latent_rgb": latent_rgb.tolist(),
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "prediction": "v",
        "notes": notes,
    }
    write_container(folder / BASE, tensors, kind="mini-base", config=config)


def save_identity(folder: Path, model: PIDiffModel, *, notes: dict) -> None:
    """Write identity.safetensors: every part of the model but `source`."""
    adapter, encoder, generator = (model.require(part, purpose="in the bundle") for part in _NETWORKS)
    tensors: dict[str, Tensor] = {"latent_avg": model.require_average().float()}
    networks = {"adapter": adapter, "encoder": encoder, "generator": generator, "detector": model.detector}
    for name, network in networks.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in stored(network.state_dict()).items()}
    tensors |= {f"directions.{name}": vector.float() for name, vector in model.directions.items()}
    config = {
        "space": asdict(model.space),
        "adapter": adapter.config.to_dict(),
        "encoder": encoder.config.to_dict(),
        "generator": generator.config.to_dict(),
        "notes": notes,
    }
    write_container(folder / IDENTITY, tensors, kind="mini-identity", config=config)


def save_judge(folder: Path, judge: Judge, *, notes: dict) -> None:
    """Write judge.safetensors."""
    write_container(folder / JUDGE, stored(judge.state_dict()), kind="mini-judge", config={"notes": notes})


def load_judge(folder: Path = JUDGE_FOLDER) -> Judge:
    """The judge, ready to use."""
    tensors, _ = read_container(folder / JUDGE, kind="mini-judge")
    judge = Judge()
    load_strict(judge, tensors, name="the mini judge", dtype=torch.float32)
    return judge.eval().requires_grad_(False)


def fitted_latent_rgb(latents: Tensor, images: Tensor) -> Tensor:
    """(C, 3): least squares from normalised latents (N, C, h, w) to the pictures (N, 3, H, W) in [-1, 1], reduced."""
    small = nn.functional.adaptive_avg_pool2d(images, latents.shape[-2:])
    x = latents.float().permute(0, 2, 3, 1).flatten(0, 2)
    y = small.permute(0, 2, 3, 1).reshape(-1, 3)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    return torch.linalg.lstsq(x, y).solution[:-1]


def stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as files hold them: floating point in fp16."""
    return {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
