"""The embedded model in ComfyUI's own UNet and sampler, for the tests of the nodes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.nodes import one_site
from tests.nodes.small_unets import watch

STEPS = 2  # without an option


@pytest.fixture(scope="module")
def small(comfy, pack):
    """Stable Diffusion 1.5 as ComfyUI builds it, small and random, with adapters for it."""
    return one_site.build(pack)


@pytest.fixture(scope="module")
def mini(comfy, pack):
    """The embedded model, two people's codes, and how a picture is sampled."""
    import nodes as host_nodes

    pack_nodes = pack.load("nodes")
    identity_attention = pack.load("pidiff_core.adapter.attention").identity_attention
    wplus_module = pack.load("pidiff_core.wplus.codes")
    model, clip, _, pidiff_model = pack_nodes.LoadMini.execute().result
    offsets = torch.randn(2, 10, 128, generator=torch.Generator().manual_seed(3))
    wplus = wplus_module.WPlus.from_offsets(
        offsets * pidiff_model.adapter.projection.code_std, pidiff_model.latent_avg, space=pidiff_model.space
    )
    text, empty = (host_nodes.CLIPTextEncode().encode(clip, words)[0] for words in ("a photo of a person", ""))

    def sample(patched, *, batch=1, size=(16, 16), positive=None, cfg=3.0, steps=STEPS):
        latent = {"samples": torch.zeros(batch, 4, *size)}
        out = host_nodes.common_ksampler(
            patched, 7, steps, cfg, "euler", "normal", positive or text, empty, latent, disable_noise=False
        )
        return out[0]["samples"]

    def apply(patched=model, codes=wplus, **options):
        return pack_nodes.ApplyIdentityAdapter.execute(patched, pidiff_model, codes, **options).result[0]

    def seen(patched, **options):
        """What the cross-attentions are asked and answer while a picture is sampled."""
        with watch(patched) as calls:
            sample(patched, **options)
        return calls

    def expected(call, who=0, *, tokens=None, factors=1.0, half=0):
        """What the readable branch adds to the half of a call that has the positive prompt (0) or the negative (1).

        `factors` multiply the values of the tokens (n).
        """
        adapter, prompt = pidiff_model.adapter, (text, empty)[half][0][0]
        branch = adapter.branch(call.site)
        tokens = adapter.tokens(wplus.select(who)) if tokens is None else tokens
        values = branch.to_v(tokens) * torch.as_tensor(factors).expand(tokens.shape[1])[:, None]
        out, _ = identity_attention(
            call.q, branch.to_k(tokens).expand(len(call.q), -1, -1), v=values.expand(len(call.q), -1, -1),
            null_key=branch.null_key, heads=branch.heads,
        )  # fmt: skip
        own = [torch.equal(row, prompt[0].to(row)) for row in call.context]
        assert any(own)
        return out * torch.tensor(own)[:, None, None]

    return SimpleNamespace(
        model=model, clip=clip, pidiff_model=pidiff_model, wplus=wplus, sample=sample, apply=apply, text=text,
        empty=empty, errors=pack.load("pidiff_core.errors"), patching=pack.load("nodes.unet.apply"), pack=pack,
        vanilla=sample(model), seen=seen, expected=expected,
    )  # fmt: skip
