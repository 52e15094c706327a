"""Encoder and generator against the public reference code, on the same weights and inputs.

The expected numbers in data/*.json were recorded by running the repositories named in them with the weights and inputs
of `seeded.py`; each file says which commit and which class. The reference code itself is no part of this project.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pidiff_core.e4e.config import PRESETS as ENCODERS
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.files.weights import load_strict
from pidiff_core.stylegan2.config import PRESETS as GENERATORS
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator
from tests.parity.seeded import normal, sample, weights

pytestmark = pytest.mark.parity
DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4  # maximum error, relative to the largest expected value


def expected(name):
    return json.loads((DATA / f"{name}.json").read_text())


def relative_error(values, reference):
    values, reference = torch.tensor(values), torch.tensor(reference)
    return float((values - reference).abs().max() / reference.abs().max())


def generator_config(size):
    full = GENERATORS["ffhq-1024"].channels
    return GENERATORS.get(f"ffhq-{size}") or GeneratorConfig(size=size, channels=full[: size.bit_length() - 2])


@pytest.mark.parametrize("size", [32, *(pytest.param(size, marks=pytest.mark.slow) for size in (256, 1024))])
def test_the_generator(size):
    record = expected("stylegan2")["sizes"][str(size)]
    with torch.device("meta"):
        generator = Generator(generator_config(size))
    state = generator.state_dict()
    assert len(state) == record["keys"]
    load_strict(generator, weights(constants(state)), name="the generator")
    with torch.no_grad():
        picture = generator.synthesis(normal("codes", (record["batch"], record["num_styles"], 512)))
        w = generator.mapping(normal("z", (2, 512)))
    assert relative_error(sample(picture), record["picture"]) <= TOLERANCE
    assert relative_error(sample(w), record["w"]) <= TOLERANCE


@pytest.mark.slow
def test_the_encoder():
    record = expected("e4e")
    with torch.device("meta"):
        encoder = E4eEncoder(ENCODERS["ffhq-1024"]).eval()
    state = encoder.state_dict()
    assert len(state) == record["keys"]
    load_strict(encoder, weights(constants(state)), name="the encoder")
    with torch.no_grad():
        offsets = encoder(normal("image", (1, 3, 256, 256)).clamp(-2, 2) / 2)
    assert list(offsets.shape) == record["shape"]
    assert relative_error(sample(offsets), record["sample"]) <= TOLERANCE


def constants(state):
    """A meta state dict with the constants of the architecture (blur filters, counters) as real tensors."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    blur = torch.outer(taps, taps) / 16.0
    return {
        name: blur if name.endswith("kernel") else torch.zeros((), dtype=torch.long) if not tensor.ndim else tensor
        for name, tensor in state.items()
    }
