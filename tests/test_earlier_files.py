"""Files that version 0.1 wrote are read by today's code, number by number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pidiff_core.files.adapters import load_adapter
from pidiff_core.files.networks import load_networks
from pidiff_core.wplus.code_files import load_codes

FOLDER = Path(__file__).parent / "data" / "version_0_1"


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


def total(tensor: torch.Tensor) -> float:
    return float(tensor.double().sum())


def test_codes_with_a_passed_through_photo(expected):
    codes = load_codes(FOLDER / "codes_present.safetensors")
    assert codes.present == (True, False)
    assert total(codes.codes) == expected["codes_present"]["sum"]
    assert total(codes.latent_avg) == expected["codes_present"]["average"]
    assert codes.source == "encoded from a.png, face 0"
    assert [photo["face"] for photo in codes.origin["photos"]] == [0, 1]


def test_codes_without_an_average(expected):
    codes = load_codes(FOLDER / "codes_average_unknown.safetensors")
    assert total(codes.codes) == expected["codes_average_unknown"]["sum"]
    with pytest.raises(Exception, match="average code"):
        _ = codes.offsets


def test_an_adapter_in_half_precision(expected):
    file = load_adapter(FOLDER / "adapter_fp16.safetensors")
    assert file.notes == {"steps": 7}
    assert [spec.name for spec in file.adapter.config.sites] == ["input.1.0", "middle.0.0"]
    with torch.no_grad():
        tokens = file.adapter.tokens(load_codes(FOLDER / "codes_plain.safetensors"))
    torch.testing.assert_close(tokens.flatten(), torch.tensor(expected["adapter_fp16"]["tokens"]), atol=1e-6, rtol=1e-5)


def test_an_adapter_without_an_average():
    file = load_adapter(FOLDER / "adapter_no_average.safetensors")
    assert file.latent_avg is None
    assert file.adapter.config.query == "text"


def test_networks(expected):
    networks = load_networks(FOLDER / "networks.safetensors")
    assert set(networks.directions) == {"smile"}
    assert networks.generator is not None
    assert networks.encoder is not None
    ramp = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        offsets = networks.encoder(ramp)
    torch.testing.assert_close(offsets.flatten(), torch.tensor(expected["networks"]["offsets"]), atol=1e-5, rtol=1e-4)
