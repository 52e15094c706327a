"""The branch in a diffusers UNet: sites by ComfyUI's numbering, nothing without an identity, gradients with one."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.errors import PIDiffError
from pidiff_core.training.diffusers_processor import attach_identity, cross_attention_sites, site_of

diffusers = pytest.importorskip("diffusers", reason="the extra 'train' is not installed")

SD15_SITES = [*(f"input.{n}.0" for n in (1, 2, 4, 5, 7, 8)), *(f"output.{n}.0" for n in range(3, 12)), "middle.0.0"]


def make_unet(*, heads=4):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=heads,
        norm_num_groups=8,
    ).eval()


def make_adapter(unet, **changes) -> IdentityAdapter:
    settings = {"sites": cross_attention_sites(unet), "num_styles": 10, "code_width": 16, "token_width": 24} | changes
    return IdentityAdapter(AdapterConfig(**settings))


def run(unet, *, batch=2):
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(batch, 4, 16, 16, generator=generator), torch.randn(batch, 7, 24, generator=generator)
    return unet(latents, torch.tensor([500] * batch), text).sample


def test_feature_sd15_sites_are_numbered_as_comfyui_does():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128), attention_head_dim=8, cross_attention_dim=24, norm_num_groups=8
        )
    names = [site_of(unet, name).name for name in unet.attn_processors if ".attn2." in name]
    assert names == SD15_SITES


def test_feature_heads_may_differ_from_level_to_level():
    sites = cross_attention_sites(make_unet(heads=(2, 8)))
    assert SiteSpec("input.1.0", 32, 2) in sites
    assert SiteSpec("middle.0.0", 64, 8) in sites


@pytest.mark.parametrize("query", ["host", "text"])
def test_feature_bit_identical_until_an_identity_acts(query):
    unet = make_unet()
    adapter = make_adapter(unet, query=query)
    with torch.no_grad():
        bare = run(unet)
        binding = attach_identity(unet, adapter)
        assert torch.equal(run(unet), bare)
        tokens = adapter.projection(torch.randn(2, 10, 16))
        with binding.identity(tokens):
            assert torch.equal(run(unet), bare), "zero-initialised"
        for branch in adapter.sites.values():
            torch.nn.init.normal_(branch.to_v.weight, std=0.1)
        with binding.identity(tokens, on=torch.tensor([1.0, 0.0])) as identity:
            half = run(unet)
        assert not torch.allclose(half[0], bare[0], atol=1e-4)
        assert torch.equal(half[1], bare[1])
        assert set(identity.maps) == {spec.name for spec in adapter.config.sites}
        assert identity.maps["input.1.0"].shape == (2, 256)
        assert identity.maps["middle.0.0"].shape == (2, 64)
        binding.detach()
        assert torch.equal(run(unet), bare)


def test_feature_gradients_reach_the_adapter_under_bf16_autocast():
    unet = make_unet().requires_grad_(False)
    adapter = make_adapter(unet)
    for branch in adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight, std=0.1)
    binding = attach_identity(unet, adapter)
    with torch.autocast("cpu", torch.bfloat16):
        with binding.identity(adapter.projection(torch.randn(2, 10, 16))) as identity:
            loss = run(unet).float().square().mean()
        loss = loss + sum(localisation.float().mean() for localisation in identity.maps.values())
    loss.backward()
    unreached = [
        name
        for name, parameter in adapter.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not unreached


def test_exception_adapter_of_another_unet():
    unet = make_unet()
    adapter = make_adapter(unet, sites=(SiteSpec("input.1.0", 64, 4),))
    with pytest.raises(PIDiffError, match=r"64.*32"):
        attach_identity(unet, adapter)
    with pytest.raises(PIDiffError, match="not a cross-attention"):
        site_of(unet, "mid_block.attentions.0.transformer_blocks.0.attn1.processor")
