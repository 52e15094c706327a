"""A small Stable Diffusion 1.5 with adapters, and its patch at one site called by hand."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

WIDTH, HEADS, PIXELS = 32, 4, 64
NAME = "input.1.0"
KEY = ("input", 1)


def build(pack):
    """Stable Diffusion 1.5 as ComfyUI builds it, small and random: one transformer layer a block above, two below."""
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    config = comfy.supported_models.SD15(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "num_res_blocks": [1, 1],
            "channel_mult": [1, 2], "transformer_depth": [1, 2], "transformer_depth_output": [1, 1, 2, 2],
            "transformer_depth_middle": 2, "context_dim": 24, "num_heads": HEADS, "use_spatial_transformer": True,
            "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None,
        }
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device="cpu")
    for parameter in network.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else torch.nn.init.constant_(parameter, 0.5)
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)

    patching = pack.load("nodes.unet.apply")
    config_module, adapter_module = pack.load("pidiff_core.adapter.config"), pack.load("pidiff_core.adapter.adapter")
    wplus_module = pack.load("pidiff_core.wplus.codes")
    space = wplus_module.WPlusSpace("test", 18, 16)
    wplus = wplus_module.WPlus(torch.randn(2, 18, 16), torch.zeros(18, 16), space)
    found = pack.load("nodes.unet.sites").unet_sites(model)

    def make_adapter(*, format="pidiff", query="host"):
        settings = config_module.AdapterConfig(
            sites=tuple(site.spec for site in found.values()), format=format, query=query, code_width=16, token_width=24
        )
        adapter = adapter_module.IdentityAdapter(settings)
        for branch in adapter.sites.values():
            torch.nn.init.normal_(branch.to_v.weight, std=0.3)
        torch.nn.init.normal_(adapter.projection.norm.bias)
        return adapter.requires_grad_(False)

    adapters = {
        "host": make_adapter(),
        "text": make_adapter(query="text"),
        "wplus-adapter": make_adapter(format="wplus-adapter", query="text"),
    }

    def apply(patched=model, *, who=0, kind="host", mask=None, unconditional="nothing", **options):
        options = patching.ApplyOptions(unconditional=unconditional, **options)
        return patching.apply_identity(patched, adapters[kind], wplus.select(who), options=options, mask_bhw=mask)

    return SimpleNamespace(
        model=model, found=found, wplus=wplus, apply=apply, patching=patching,
        error=pack.load("pidiff_core.errors").PIDiffError, adapters=adapters, positive=cond(1), negative=cond(2),
    )  # fmt: skip


def cond(seed, **options):
    return [[torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(seed)), options]]


def replacements(model):
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def options_of_a_step(**changes):
    return {
        "cond_or_uncond": [0],
        "n_heads": HEADS,
        "activations_shape": [1, WIDTH, int(PIXELS**0.5), int(PIXELS**0.5)],
        "sigmas": torch.tensor([1.0]),
    } | changes


def qkv(rows=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(rows, n, WIDTH, generator=generator).to(dtype) for n in (PIXELS, 7, 7))


def text_attention(q, k, v):
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, HEADS)


def added(model, *, rows=1, **changes):
    """What the patch adds to the text's output at one site."""
    q, k, v = qkv(rows)
    return replacements(model)[KEY](q, k, v, options_of_a_step(**changes)) - text_attention(q, k, v)


def needs_attention_overrides():
    """Skip the test on a host that lets nobody replace its attention for a step."""
    from comfy.ldm.modules.attention import optimized_attention

    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(optimized_attention).parameters.values()):
        pytest.skip("this host has no overrides of its attention")
