"""One UNet, two hosts: what trains in diffusers, and what W+ Adapter published for it, is what ComfyUI computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

WIDTHS, HEADS, CONTEXT = (32, 64, 64, 64), 8, 24
LAYOUT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 2], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
    "context_dim": CONTEXT, "num_heads": HEADS, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "legacy": False, "adm_in_channels": None,
}  # fmt: skip

diffusers = pytest.importorskip("diffusers", reason="the extra 'train' is not installed")


@pytest.fixture(scope="module")
def unets(comfy):
    """The same random weights, Stable Diffusion 1.5 in shape, as (diffusers' UNet, ComfyUI's MODEL)."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=WIDTHS, attention_head_dim=HEADS, cross_attention_dim=CONTEXT, norm_num_groups=32
    ).eval()
    names = comfy.utils.unet_to_diffusers(
        {**LAYOUT, "transformer_depth": list(LAYOUT["transformer_depth"]),
         "transformer_depth_output": list(LAYOUT["transformer_depth_output"])}
    )  # fmt: skip
    config = comfy.supported_models.SD15(LAYOUT)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device="cpu")
    state = {names[key]: tensor for key, tensor in theirs.state_dict().items()}
    network.diffusion_model.load_state_dict(state, strict=True)
    cpu = torch.device("cpu")
    return theirs.requires_grad_(False), comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="module")
def make(pack):
    """Adapter and codes of the pack's own classes."""
    modules = {name: pack.load(f"pidiff_core.{name}") for name in ("adapter.config", "adapter.adapter", "wplus.codes")}
    processor = pack.load("pidiff_core.training.diffusers_processor")

    def adapter(unet, **settings):
        torch.manual_seed(1)
        sites = processor.cross_attention_sites(unet)
        config = modules["adapter.config"].AdapterConfig(sites=sites, code_width=16, token_width=CONTEXT, **settings)
        made = modules["adapter.adapter"].IdentityAdapter(config)
        for branch in made.sites.values():
            torch.nn.init.normal_(branch.to_v.weight, std=0.3)
        torch.nn.init.normal_(made.projection.norm.bias)
        return made.requires_grad_(False)

    space = modules["wplus.codes"].WPlusSpace("test", 18, 16)
    wplus = modules["wplus.codes"].WPlus(torch.randn(1, 18, 16), torch.randn(18, 16), space)
    return adapter, wplus, processor


def inputs(batch, size):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 4, *size, generator=generator), torch.randn(batch, 7, CONTEXT, generator=generator)


def in_comfyui(model, latents, text, *, halves):
    options = {**model.model_options["transformer_options"], "cond_or_uncond": halves, "sigmas": torch.tensor([1.0])}
    times = torch.tensor([500.0] * len(latents))
    with torch.no_grad():
        return model.model.diffusion_model(latents, times, context=text, transformer_options=options)


def in_diffusers(unet, latents, text):
    with torch.no_grad():
        return unet(latents, torch.tensor([500] * len(latents)), text).sample


def error_of(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


CASES = [([0], (16, 16)), ([0, 1], (16, 16)), ([1, 0], (16, 12))]


@pytest.mark.parametrize(("halves", "size"), CASES, ids=["cond", "cond and uncond", "uncond first, not square"])
@pytest.mark.parametrize("query", ["host", "text"])
def test_an_adapter_does_in_comfyui_what_it_did_in_training(unets, make, pack, halves, size, query):
    theirs, model = unets
    make_adapter, wplus, processor = make
    adapter = make_adapter(theirs, query=query)
    patching = pack.load("nodes.unet.apply")
    patched = patching.apply_identity(model, adapter, wplus, options=patching.ApplyOptions(strength=0.7))
    latents, text = inputs(len(halves), size)

    binding = processor.attach_identity(theirs, adapter)
    on = torch.tensor([1.0 - half for half in halves])
    try:
        bare = in_diffusers(theirs, latents, text)
        with binding.identity(adapter.tokens(wplus).expand(len(halves), -1, -1), on=on, strength=0.7):
            expected = in_diffusers(theirs, latents, text)
    finally:
        binding.detach()
    assert error_of(bare, expected) > 0.01
    assert error_of(in_comfyui(model, latents, text, halves=halves), bare) < 1e-4
    assert error_of(in_comfyui(patched, latents, text, halves=halves), expected) < 1e-4


class PublishedProcessor:
    """W+ Adapter's arithmetic as published, written out: the tokens ride at the end of the text."""

    def __init__(self, to_q, to_k, to_v, scale):
        self.to_q, self.to_k, self.to_v, self.scale = to_q, to_k, to_v, scale

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text, tokens = encoder_hidden_states[:, :-4], encoder_hidden_states[:, -4:]

        def attention(q, k, v):
            q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=attn.heads) for x in (q, k, v))
            return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")

        out = attention(attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        out = out + self.scale * attention(self.to_q(out), self.to_k(tokens), self.to_v(tokens))
        return attn.to_out[0](out)


@pytest.mark.parametrize(("halves", "size"), CASES, ids=["cond", "cond and uncond", "uncond first, not square"])
def test_w_plus_adapter_does_in_comfyui_what_its_authors_code_does(unets, make, pack, halves, size):
    theirs, model = unets
    make_adapter, wplus, processor = make
    adapter = make_adapter(theirs, format="wplus-adapter", query="text")
    patching = pack.load("nodes.unet.apply")
    options = patching.ApplyOptions(strength=0.7, unconditional="average person")
    patched = patching.apply_identity(model, adapter, wplus, options=options)
    latents, text = inputs(len(halves), size)

    originals = dict(theirs.attn_processors)
    processors = dict(originals)
    # The published file numbers its layers by their place in this list: our reading of it must name the same sites.
    for name in processors:
        if ".attn2." in name:
            branch = adapter.branch(processor.site_of(theirs, name).name)
            processors[name] = PublishedProcessor(branch.to_q, branch.to_k, branch.to_v, 0.7)
    tokens = {0: adapter.tokens(wplus), 1: adapter.zero_tokens()}
    with_tokens = torch.cat([text, torch.cat([tokens[half] for half in halves])], dim=1)
    theirs.set_attn_processor(processors)
    try:
        expected = in_diffusers(theirs, latents, with_tokens)
    finally:
        theirs.set_attn_processor(originals)
    assert error_of(in_comfyui(patched, latents, text, halves=halves), expected) < 1e-4


def test_the_published_numbers_are_these_sites(unets, make, pack):
    theirs, _ = unets
    _, _, processor = make
    order = [processor.site_of(theirs, name).name for name in theirs.attn_processors if ".attn2." in name]
    numbers = [index for index, name in enumerate(theirs.attn_processors) if ".attn2." in name]
    assert order == list(pack.load("pidiff_core.files.foreign.wplus_adapter").SITES)
    assert numbers == list(range(1, 32, 2))
