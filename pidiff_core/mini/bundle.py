"""The embedded bundle on disk: two safetensors files, fp16, configuration inside.

base.safetensors      UNet, text encoder and autoencoder under the names of a Stable Diffusion checkpoint
identity.safetensors  e4e encoder, StyleGAN2 generator, adapter, the drawn world's face finder, directions
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import AdapterConfig
from ..e4e.config import EncoderConfig
from ..e4e.encoder import E4eEncoder
from ..files.container import read_container
from ..files.weights import load_strict, strip_prefix
from ..model import PIDiffModel
from ..stylegan2.config import GeneratorConfig
from ..stylegan2.generator import Generator
from ..wplus.codes import WPlusSpace
from .detector import DrawnFaceDetector

WEIGHTS = Path(__file__).parent / "weights"
BASE, IDENTITY = "base.safetensors", "identity.safetensors"


def load_base(folder: Path = WEIGHTS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights under Stable Diffusion's names, configuration)."""
    return read_container(folder / BASE, kind="mini-base")


def load_identity(folder: Path = WEIGHTS) -> PIDiffModel:
    """The mini PIDiff model, on the CPU in fp32."""
    tensors, config = read_container(folder / IDENTITY, kind="mini-identity")
    space = WPlusSpace(**config["space"])
    with torch.device("meta"):  # the file has all the numbers: none are drawn
        adapter = IdentityAdapter(AdapterConfig.from_dict(config["adapter"]))
        encoder = E4eEncoder(EncoderConfig.from_dict(config["encoder"]))
        generator = Generator(GeneratorConfig.from_dict(config["generator"]))
        detector = DrawnFaceDetector()
    for name, network in (
        ("adapter", adapter), ("encoder", encoder), ("generator", generator), ("detector", detector),
    ):  # fmt: skip
        load_strict(network, strip_prefix(tensors, f"{name}."), name=f"the mini {name}", dtype=torch.float32)
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
