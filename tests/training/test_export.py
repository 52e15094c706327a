"""Adapters in and out of training: the card, what a run may start from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from diffusers import UNet2DConditionModel

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.errors import PIDiffError
from pidiff_core.files.adapters import load_adapter, save_adapter
from pidiff_core.training.bases import load_base
from pidiff_core.training.diffusers_processor import cross_attention_sites
from pidiff_core.training.export import adapter_to_start_from, export_adapter, with_family
from pidiff_core.wplus.codes import WPlusSpace
from tests.parity import cases

SPACE = WPlusSpace("mini-64", 10, 128)


@pytest.fixture(scope="module")
def base():
    return load_base("mini")


def adapter_of(base, **changes) -> IdentityAdapter:
    settings = {"sites": cross_attention_sites(base.unet), "num_styles": 10, "code_width": 128, "family": base.family}
    return IdentityAdapter(AdapterConfig(**{**settings, "token_width": base.context_width, **changes}))


def test_an_export_holds_the_weights_and_the_card(base, tmp_path):
    adapter, average = adapter_of(base), torch.randn(10, 128)
    save_adapter(tmp_path / "run.safetensors", adapter, space=SPACE, latent_avg=average, notes={"photos": 7})
    (tmp_path / "evaluation.json").write_text(json.dumps({"identity": 0.5}))
    out = tmp_path / "out" / "my.safetensors"
    card = export_adapter(
        tmp_path / "run.safetensors",
        out,
        own={"name": "mine", "licence": "CC0", "author": ""},
        evaluation=tmp_path / "evaluation.json",
    )
    assert card == {"photos": 7, "name": "mine", "licence": "CC0", "evaluation": {"identity": 0.5}}
    file = load_adapter(out)
    assert dict(file.notes) == card
    assert file.adapter.config.family == "mini"
    assert torch.equal(file.latent_avg, average)
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(file.adapter.state_dict()[name], tensor.half().float()), name
    assert export_adapter(tmp_path / "run.safetensors", out, own={}, half=False)["licence"] == "not stated"
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(load_adapter(out).adapter.state_dict()[name], tensor), name


def test_what_a_run_may_start_from(base, tmp_path):
    path = tmp_path / "start.safetensors"

    def saved(**changes):
        save_adapter(path, adapter_of(base, **changes), space=changes.pop("space", SPACE))

    saved()
    assert adapter_to_start_from(path, base=base, space=SPACE).adapter.config.family == "mini"
    with pytest.raises(PIDiffError, match="codes of mini-64"):
        adapter_to_start_from(path, base=base, space=WPlusSpace("ffhq-1024", 18, 512))
    saved(family="sdxl")
    with pytest.raises(PIDiffError, match="an adapter for Stable Diffusion XL, but the base is the embedded"):
        adapter_to_start_from(path, base=base, space=SPACE)
    saved(family="", sites=cross_attention_sites(base.unet)[:3])
    with pytest.raises(PIDiffError, match="does not fit the UNet"):
        adapter_to_start_from(path, base=base, space=SPACE)


def test_wplus_adapters_published_layout_is_a_start_on_sd15(tmp_path):
    path = tmp_path / "wplus_adapter.bin"
    torch.save(cases.wplus_adapter_file(), path)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    sd15 = SimpleNamespace(unet=unet, family="sd15", context_width=768, name="sd15.safetensors")
    adapter = adapter_to_start_from(path, base=sd15, space=WPlusSpace("ffhq-1024", 18, 512)).adapter
    assert (adapter.config.format, adapter.config.query) == ("wplus-adapter", "text")
    assert with_family(adapter, "sd15").config.family == "sd15"
    with pytest.raises(PIDiffError, match="does not fit the UNet of mini"):
        adapter_to_start_from(path, base=load_base("mini"), space=SPACE)


def test_exception_without_an_adapter(tmp_path):
    with pytest.raises(PIDiffError, match="has not written an adapter yet"):
        export_adapter(tmp_path / "adapter.safetensors", tmp_path / "out.safetensors", own={})
    assert list(tmp_path.iterdir()) == []
