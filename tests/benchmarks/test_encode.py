"""The benchmark of the encoder, and the plain twin of the published networks in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import reference_e4e
from pidiff_core.e4e.config import PRESETS as ENCODERS
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.stylegan2.config import PRESETS as GENERATORS
from pidiff_core.stylegan2.generator import Generator


def shapes(module):
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def test_the_twin_has_the_published_layout():
    with torch.device("meta"):
        assert shapes(reference_e4e.Encoder()) == shapes(E4eEncoder(ENCODERS["ffhq-1024"]))
        assert shapes(reference_e4e.generator()) == shapes(Generator(GENERATORS["ffhq-1024"]))


@pytest.mark.slow
def test_the_benchmark_measures_and_keeps_what_does_not_depend_on_the_machine(root, tmp_path):
    command = [sys.executable, root / "scripts" / "bench.py", "encode", "--repeats", "1", "--loads", "1"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["largest_error"] < 1e-4
    assert report["bf16_cosine"] > 0.999
    assert report["time_s"] > 0
    if sys.platform == "linux":
        assert report["memory_ratio"] < 0.75  # docs/encode.md has the figure; torch's own share differs by machine
    assert not list(tmp_path.iterdir())  # the random checkpoint is gone
