"""Fixtures of the server tests: shipped workflows and a random Stable Diffusion 1.5 checkpoint of the full size."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from comfy_client import Result

# Stable Diffusion 1.5's size, in the words of ComfyUI's UNetModel and ControlNet; on "meta" no memory is taken.
SD15: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "channel_mult": (1, 2, 4, 4),
    "num_res_blocks": [2, 2, 2, 2],
    "num_heads": 8,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "legacy": False,
    "device": "meta",
}


@pytest.fixture(scope="session")
def api_workflow(root: Path) -> Callable[[str], dict[str, Any]]:
    """A fresh copy of a shipped workflow in API format, by name."""
    return lambda name: json.loads((root / "workflows" / "api" / f"{name}.json").read_text())


@pytest.fixture
def pictures(server) -> Callable[[Result, str], list[np.ndarray]]:
    """All pictures of an output node, each as float64 (H, W, 3) in [0, 1]."""

    def fetch(result: Result, node_id: str) -> list[np.ndarray]:
        files = [server.fetch_image(image) for image in result.images(node_id)]
        return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255.0 for data in files]

    return fetch


@pytest.fixture
def picture(pictures) -> Callable[[Result, str], np.ndarray]:
    """The first picture of an output node as float64 (H, W, 3) in [0, 1]."""
    return lambda result, node_id: pictures(result, node_id)[0]


@pytest.fixture(scope="session")
def sd15_checkpoint(comfy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stable Diffusion 1.5 in its published layout and full size (2.1 GB in fp16), with random weights.

    The names and shapes come from ComfyUI's own classes; what is detected by key signature is therefore the real thing.
    """
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.sd1_clip import SD1ClipModel

    unet = UNetModel(
        out_channels=4,
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        operations=comfy.ops.disable_weight_init,
        **SD15,
    )
    encoder_decoder = {"in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    with torch.device("meta"):
        vae = AutoencoderKL(
            embed_dim=4,
            ddconfig={
                "double_z": True, "z_channels": 4, "resolution": 256, "attn_resolutions": [], **encoder_decoder,
            },
        )  # fmt: skip
    clip = SD1ClipModel(device="meta", dtype=torch.float16)
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for prefix, module in (("model.diffusion_model.", unet), ("first_stage_model.", vae)):
        state |= {prefix + name: _random_weight(name, value, generator) for name, value in module.state_dict().items()}
    for name, value in clip.clip_l.transformer.state_dict().items():
        state[f"cond_stage_model.transformer.{name}"] = _random_weight(name, value, generator)
    path = tmp_path_factory.mktemp("sd15") / "random_sd15.safetensors"
    save_file(state, path)
    state.clear()
    yield path
    path.unlink()  # pytest keeps the folders of three runs


@pytest.fixture(scope="session")
def sd15_controlnet(comfy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ControlNet for Stable Diffusion 1.5 in its published layout and full size (0.7 GB in fp16), random."""
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    network = ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **SD15)
    generator = torch.Generator().manual_seed(1)
    path = tmp_path_factory.mktemp("controlnet") / "random_controlnet.safetensors"
    save_file({name: _random_weight(name, value, generator) for name, value in network.state_dict().items()}, path)
    yield path
    path.unlink()


def _random_weight(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep a signal's size from layer to layer; norms near one, biases near zero."""
    noise = torch.empty(like.shape).normal_(generator=generator)
    if name.endswith("bias"):
        noise *= 0.02
    elif like.ndim == 1:  # the gains of norms
        noise = 1 + 0.02 * noise
    else:
        noise *= like[0].numel() ** -0.5
    return noise.half()
