"""The mini bundle on disk: two safetensors files, fp16, configuration inside; the judge lies beside them.

base.safetensors      UNet, text encoder and autoencoder under the names of a Stable Diffusion checkpoint
identity.safetensors  e4e encoder, StyleGAN2 generator, adapter, the drawn world's face finder, directions
judge.safetensors     what `scripts/bench.py mini` measures likeness with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import AdapterConfig
from ..checkpoint import load_checkpoint, load_strict, save_checkpoint, strip_prefix
from ..e4e.config import EncoderConfig
from ..e4e.encoder import E4eEncoder
from ..errors import PIDiffError
from ..model import PIDiffModel
from ..stylegan2.config import GeneratorConfig
from ..stylegan2.generator import Generator
from ..wplus import WPlusSpace
from .autoencoder import CHANNELS as AUTOENCODER_CHANNELS
from .autoencoder import LATENT_SCALE, UNSHUFFLE, MiniAutoencoder
from .base import BETA_END, BETA_START, CHANNELS, CONTEXT_WIDTH, HEAD_WIDTH, MiniBase, text_config
from .detector import DrawnFaceDetector
from .judge import Judge
from .layout import autoencoder_layout, text_layout, unet_layout

WEIGHTS = Path(__file__).parent / "weights"
BASE, IDENTITY, JUDGE = "base.safetensors", "identity.safetensors", "judge.safetensors"
_LAYERS = 1


def save_base(folder: Path, base: MiniBase, autoencoder: MiniAutoencoder, *, latent_rgb: Tensor, notes: dict) -> None:
    """Write base.safetensors. latent_rgb (4, 3): what each normalised latent channel adds to R, G, B in [0, 1]."""
    kl = autoencoder.fold_normalisation()
    parts = {
        "model.diffusion_model.": unet_layout(base.unet.state_dict(), levels=len(CHANNELS), layers=_LAYERS),
        "cond_stage_model.": text_layout(base.text.state_dict()),
        "first_stage_model.": autoencoder_layout(kl.state_dict(), levels=len(AUTOENCODER_CHANNELS)),
    }
    tensors = {prefix + key: tensor for prefix, state in parts.items() for key, tensor in _stored(state).items()}
    config = {
        "kind": "mini-base",
        "unet": {
            "image_size": 16,
            "in_channels": 4,
            "out_channels": 4,
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
            "z_channels": 4,
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
    save_checkpoint(folder / BASE, tensors, config)


def load_base(folder: Path = WEIGHTS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights under Stable Diffusion's names, configuration)."""
    return _load(folder / BASE, kind="mini-base")


def save_identity(folder: Path, model: PIDiffModel, *, notes: dict) -> None:
    """Write identity.safetensors: every part of the model but `source`."""
    adapter, encoder, generator = (model.require(part, purpose="in the bundle") for part in _NETWORKS)
    tensors: dict[str, Tensor] = {"latent_avg": model.require_average().float()}
    networks = {"adapter": adapter, "encoder": encoder, "generator": generator, "detector": model.detector}
    for name, network in networks.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in _stored(network.state_dict()).items()}
    tensors |= {f"directions.{name}": vector.float() for name, vector in model.directions.items()}
    config = {
        "kind": "mini-identity",
        "space": asdict(model.space),
        "adapter": adapter.config.to_json(),
        "encoder": encoder.config.to_dict(),
        "generator": generator.config.to_dict(),
        "notes": notes,
    }
    save_checkpoint(folder / IDENTITY, tensors, config)


_NETWORKS = ("adapter", "encoder", "generator")


def load_identity(folder: Path = WEIGHTS) -> PIDiffModel:
    """The mini PIDiff model, on the CPU in fp32."""
    tensors, config = _load(folder / IDENTITY, kind="mini-identity")
    space = WPlusSpace(**config["space"])
    adapter = IdentityAdapter(AdapterConfig.from_json(config["adapter"]))
    encoder = E4eEncoder(EncoderConfig.from_dict(config["encoder"]))
    generator = Generator(GeneratorConfig.from_dict(config["generator"]))
    detector = DrawnFaceDetector()
    for name, network in (
        ("adapter", adapter), ("encoder", encoder), ("generator", generator), ("detector", detector),
    ):  # fmt: skip
        load_strict(network, _floats(strip_prefix(tensors, f"{name}.")), name=f"the mini {name}")
        network.eval().requires_grad_(False)
    return PIDiffModel(
        space=space,
        latent_avg=tensors["latent_avg"],
        adapter=adapter,
        encoder=encoder,
        generator=generator,
        directions=strip_prefix(tensors, "directions."),
        source="PIDiff mini (embedded, trained on drawn people)",
        crop_size=encoder.config.image_size,
        detector=detector,
    )


def save_judge(folder: Path, judge: Judge, *, notes: dict) -> None:
    """Write judge.safetensors."""
    save_checkpoint(folder / JUDGE, _stored(judge.state_dict()), {"kind": "mini-judge", "notes": notes})


def load_judge(folder: Path = WEIGHTS) -> Judge:
    """The judge, ready to use."""
    tensors, _ = _load(folder / JUDGE, kind="mini-judge")
    judge = Judge()
    load_strict(judge, _floats(tensors), name="the mini judge")
    return judge.eval().requires_grad_(False)


def fitted_latent_rgb(latents: Tensor, images: Tensor) -> Tensor:
    """(4, 3): least squares from normalised latents (N, 4, h, w) to the pictures (N, 3, H, W) in [-1, 1], reduced."""
    small = nn.functional.adaptive_avg_pool2d(images, latents.shape[-2:])
    x = latents.float().permute(0, 2, 3, 1).reshape(-1, 4)
    y = small.permute(0, 2, 3, 1).reshape(-1, 3)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    return torch.linalg.lstsq(x, y).solution[:4]


def _load(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, config = load_checkpoint(path)
    if config.get("kind") != kind:
        raise PIDiffError(f"{path} holds '{config.get('kind')}', expected '{kind}'. Restore the file from the release.")
    return tensors, config


def _stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
