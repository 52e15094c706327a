"""The training benchmark on narrow networks: its last line, and that its reference is the published step."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from benchmarks.train import OurStep, PublishedStep, networks, random_inputs

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_last_line_is_one_json_object(root):
    command = [sys.executable, str(root / "scripts" / "bench.py"), "train", "--narrow", "--px", "64", "--batch", "2"]
    done = subprocess.run([*command, "--rounds", "1", "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(0 < result[name] < 10 for name in ("step_vs_wplus", "step_vs_wplus_sampled", "memory_vs_wplus"))
    assert (result["px"], result["batch"]) == (64, 2)


@pytest.mark.slow
@pytest.mark.parametrize("sdxl", [False, True])
def test_both_steps_train_their_adapter_and_nothing_else(sdxl):
    unet, vae, text = networks(CPU, narrow=True, encoders=True, sdxl=sdxl)
    inputs = random_inputs(64, 2, CPU, sdxl=sdxl)
    frozen = [parameter.clone() for parameter in unet.parameters()]
    published = PublishedStep(unet, vae, text, bf16=False)
    before = [parameter.clone() for parameter in published.own.parameters()]
    first, second = (published(inputs, encode=False) for _ in range(2))
    assert second < first, "the same batch again"
    assert not any(torch.equal(a, b) for a, b in zip(before, published.own.parameters()))
    ours = OurStep(unet, bf16=False, fraction=1.0)
    first, second = (ours(inputs) for _ in range(2))
    assert second < first
    own = {id(parameter) for parameter in published.own.parameters()}
    now = [parameter for parameter in unet.parameters() if id(parameter) not in own]
    assert all(torch.equal(a, b) for a, b in zip(frozen, now))
