"""The face parsers against the public code, on the same weights: BiSeNet in its two published layouts, and ParseNet.

The expected numbers in data/*.json were recorded by `record_parsers.py` from the repositories named in them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pidiff_core.face.parsers.bisenet import BiSeNet
from pidiff_core.face.parsers.parsenet import ParseNet
from pidiff_core.files.weights import load_strict
from tests.parity.seeded import normal, sample, weights

pytestmark = pytest.mark.parity
DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4  # maximum error, relative to the largest expected value
PICTURES = {"bisenet": (2, 3, 512, 512), "parsenet": (1, 3, 128, 128)}


@pytest.mark.parametrize(("name", "network"), [("bisenet", BiSeNet), ("parsenet", ParseNet)])
def test_logits_are_the_published_ones(name, network):
    record = json.loads((DATA / f"{name}.json").read_text())
    parser = network().eval()
    state = parser.state_dict()
    assert len(state) == record["keys"]
    load_strict(parser, weights(state), name=name)
    with torch.no_grad():
        logits = parser(normal("image", PICTURES[name]).clamp(-2, 2))
    assert list(logits.shape) == record["shape"]
    found, expected = torch.tensor(sample(logits)), torch.tensor(record["sample"])
    assert float((found - expected).abs().max() / expected.abs().max()) <= TOLERANCE
    classes = logits.argmax(dim=1).flatten().bincount(minlength=19)
    assert len(classes.nonzero()) > 1  # weights that prefer one class everywhere would show little
    assert int((classes - torch.tensor(record["classes"])).abs().sum()) <= 0.001 * logits[:, 0].numel()
