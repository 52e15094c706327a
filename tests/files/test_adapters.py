"""Adapter checkpoints come back as they were written, and say what is wrong with others."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.errors import PIDiffError
from pidiff_core.files.adapters import load_adapter, save_adapter
from pidiff_core.files.container import write_container
from pidiff_core.wplus.codes import WPlusSpace

SPACE = WPlusSpace(name="test", num_styles=10, width=16)


def make_adapter() -> IdentityAdapter:
    torch.manual_seed(0)
    return IdentityAdapter(
        AdapterConfig(sites=(SiteSpec("input.1.0", 32, 4),), num_styles=10, code_width=16, token_width=24)
    )


def test_feature_round_trip_is_bit_equal(tmp_path):
    adapter, average = make_adapter(), torch.randn(10, 16)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter, space=SPACE, latent_avg=average, notes={"steps": 7})
    back = load_adapter(path)
    assert back.adapter.config == adapter.config
    assert back.space == SPACE
    assert back.notes == {"steps": 7}
    assert torch.equal(back.latent_avg, average)
    assert all(torch.equal(tensor, adapter.state_dict()[name]) for name, tensor in back.adapter.state_dict().items())
    assert not any(parameter.requires_grad for parameter in back.adapter.parameters())
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_feature_fp16_file_is_half_as_large(tmp_path):
    save_adapter(tmp_path / "a", make_adapter(), space=SPACE)
    save_adapter(tmp_path / "b", make_adapter(), space=SPACE, dtype=torch.float16)
    assert (tmp_path / "b").stat().st_size < 0.7 * (tmp_path / "a").stat().st_size
    assert all(tensor.dtype == torch.float32 for tensor in load_adapter(tmp_path / "b").adapter.parameters())


def test_exception_other_kind_and_missing_weights(tmp_path):
    adapter = make_adapter()
    write_container(tmp_path / "other", {"x": torch.zeros(1)}, kind="encoder", config={})
    with pytest.raises(PIDiffError, match="encoder"):
        load_adapter(tmp_path / "other")
    state = adapter.state_dict()
    state.pop("sites.input_1_0.null_key")
    config = {
        "adapter": adapter.config.to_dict(),
        "space": {"name": "t", "num_styles": 10, "width": 16},
    }
    write_container(tmp_path / "less", state, kind="adapter", config=config)
    with pytest.raises(PIDiffError, match="null_key"):
        load_adapter(tmp_path / "less")
