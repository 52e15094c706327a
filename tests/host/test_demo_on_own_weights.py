"""The demo on a user's own files: the published layouts of SD 1.5, W+ Adapter and e4e, with random numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pidiff_core.e4e.config import EncoderConfig, heads_for
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.files.foreign.wplus_adapter import SITES
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator

WIDTHS = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280)
ENCODER = EncoderConfig(
    image_size=64, stem_channels=8, depths=(8, 12, 16, 24), units=(1, 1, 1, 1), head_channels=16, heads=heads_for(18),
    se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(z_dim=16, mapping_layers=2, channels=(16, 16, 16, 16, 12, 12, 8, 8, 4))


def write_adapter(path: Path) -> Path:
    """W+ Adapter in full size for Stable Diffusion 1.5, 155 MB."""
    projection = {f"proj_{i}.weight": torch.randn(768, size) * 0.02 for i, size in enumerate((2048, 2048, 2048, 3072))}
    projection |= {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    branches = {}
    for number, width in zip(range(1, 2 * len(SITES), 2), WIDTHS):
        for name, inputs in (("to_k", 768), ("to_v", 768), ("to_q", width)):
            branches[f"{number}.{name}_wplus.weight"] = torch.randn(width, inputs) * inputs**-0.5
    torch.save({"w_proj": projection, "wplus_adapter": branches}, path)
    return path


def write_encoder(path: Path) -> Path:
    """e4e of 18 styles of 512 with a 1024 px generator, both with few channels."""
    state = {f"encoder.{key}": value for key, value in E4eEncoder(ENCODER).state_dict().items()}
    state |= {f"decoder.{key}": value for key, value in Generator(GENERATOR).state_dict().items()}
    torch.save({"state_dict": state, "latent_avg": torch.randn(18, 512) * 0.1, "opts": {}}, path)
    return path


@pytest.mark.host
@pytest.mark.slow
def test_the_demo_draws_with_the_users_own_files(root, sd15_checkpoint, photo, tmp_path):
    torch.manual_seed(0)
    downloads, cache = tmp_path / "my downloads", tmp_path / "cache"
    downloads.mkdir()
    cache.mkdir()
    adapter = write_adapter(downloads / "wplus_adapter.bin")
    encoder = downloads / "e4e_ffhq_encode.pt"  # a link, as download caches make them
    encoder.symlink_to(write_encoder(cache / "0123abcd"))
    out = tmp_path / "out"
    command = [sys.executable, root / "scripts" / "demo.py", "--photo", photo, "--out", out, "--size", 64, "--steps", 2]
    command += ["--checkpoint", sd15_checkpoint, "--adapter", adapter, "--encoder", encoder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(1, 5):
        pictures = [
            np.asarray(Image.open(out / f"{number}_{kind}_identity_seed{number}.png")) / 255.0
            for kind in ("with", "without")
        ]
        assert all(picture.shape == (64, 64, 3) and picture.std() > 0.01 for picture in pictures)
        assert not np.array_equal(*pictures)
    assert Image.open(out / "codes_portrait.png").size == (1024, 1024)
    assert Image.open(out / "contact_sheet.png").width > 1000
    assert sorted(path.name for path in downloads.iterdir()) == ["e4e_ffhq_encode.pt", "wplus_adapter.bin"]
    adapter.unlink()  # pytest keeps the folders of three runs
