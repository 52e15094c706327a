"""W+ Adapter in a whole Stable Diffusion 1.5 UNet: diffusers with the published arithmetic against ComfyUI with us.

Both UNets share one set of random weights, and both get the identity from one file in the published layout. On the
reference's side that file is read by its numbers alone: number i belongs to entry i of diffusers' list of attention
processors. On ours it goes through `read_wplus_adapter`, ApplyIdentityAdapter, and a whole step of ComfyUI's sampler.
"""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from tests.parity import cases
from tests.parity.seeded import normal

pytestmark = [pytest.mark.parity, pytest.mark.slow]
diffusers = pytest.importorskip("diffusers", reason="the extra 'train' is not installed")

TOLERANCE = 1e-3  # maximum error, relative to the largest expected value
TIME, SCALE, GUIDANCE = 500, 1.0, 7.5
LAYOUT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
    "context_dim": cases.CONTEXT, "num_heads": cases.HEADS, "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None,
}  # fmt: skip


class PublishedProcessor:
    """The site's arithmetic as the published file's authors describe it: four tokens ride at the end of the text; the
    text's output asks them, and what they answer is added before `to_out`."""

    def __init__(self, number, branches):
        self.q, self.k, self.v = (branches[f"{number}.to_{part}_wplus.weight"] for part in "qkv")

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text, tokens = encoder_hidden_states[:, :-4], encoder_hidden_states[:, -4:]
        out = self.attention(attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        out = out + SCALE * self.attention(out @ self.q.T, tokens @ self.k.T, tokens @ self.v.T)
        return attn.to_out[0](out)

    @staticmethod
    def attention(*qkv):
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=cases.HEADS) for x in qkv)
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def published_tokens(projection, codes):
    """(B, 18, 512) -> (B, 4, 768)."""
    groups = [codes[:, first:last].flatten(1) for first, last in ((0, 4), (4, 8), (8, 12), (12, 18))]
    tokens = torch.stack([group @ projection[f"proj_{i}.weight"].T for i, group in enumerate(groups)], dim=1)
    return F.layer_norm(tokens, (cases.CONTEXT,), projection["norm.weight"], projection["norm.bias"])


@pytest.fixture(scope="module")
def both(comfy, pack):
    """Both UNets on the same 3.4 GB of weights, and ComfyUI's with the identity."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(cross_attention_dim=cases.CONTEXT, attention_head_dim=cases.HEADS)
    theirs.eval().requires_grad_(False)
    names = comfy.utils.unet_to_diffusers(
        {key: list(value) if isinstance(value, list) else value for key, value in LAYOUT.items()}
    )
    config = comfy.supported_models.SD15(LAYOUT)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device="meta")
    state = {names[key]: tensor for key, tensor in theirs.state_dict().items()}
    network.diffusion_model.load_state_dict(state, strict=True, assign=True)
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)

    file, codes = cases.wplus_adapter_file(), cases.wplus_codes()[:1]
    adapter = pack.load("pidiff_core.files.foreign.wplus_adapter").read_wplus_adapter(file, name="wplus_adapter.bin")
    average = torch.zeros(18, 512)
    patching = pack.load("nodes.unet.apply")
    patched = patching.apply_identity(
        model,
        adapter.adapter,
        pack.load("pidiff_core.wplus.codes").WPlus(codes, average, adapter.space),
        options=patching.ApplyOptions(strength=SCALE, unconditional="average person"),
    )
    yield SimpleNamespace(theirs=theirs, file=file, codes=codes, model=model, patched=patched)
    del theirs, network, state, model, patched
    gc.collect()


def text(half):
    return normal(half, (1, 77, cases.CONTEXT))


def in_diffusers(both, latents, *, guidance, identity):
    """The noise that the reference predicts: the conditional half, or both halves in one batch under guidance."""
    halves = ["uncond", "cond"] if guidance else ["cond"]
    context = torch.cat([text(half) for half in halves])
    plain = dict(both.theirs.attn_processors)
    if identity:
        tokens = {
            "cond": published_tokens(both.file["w_proj"], both.codes),
            "uncond": published_tokens(both.file["w_proj"], torch.zeros_like(both.codes)),
        }
        context = torch.cat([context, torch.cat([tokens[half] for half in halves])], dim=1)
        both.theirs.set_attn_processor(
            {
                name: PublishedProcessor(number, both.file["wplus_adapter"]) if number in cases.WIDTHS else processor
                for number, (name, processor) in enumerate(plain.items())
            }
        )
    try:
        with torch.no_grad():
            noise = both.theirs(latents.expand(len(halves), -1, -1, -1), TIME, context).sample
    finally:
        both.theirs.set_attn_processor(plain)
    if not guidance:
        return noise
    uncond, cond = noise.chunk(2)
    return uncond + GUIDANCE * (cond - uncond)


def in_comfyui(model, latents, *, guidance):
    """The noise that one step of ComfyUI's sampler takes away, and the batches that its UNet saw."""
    import comfy.samplers

    model, batches = model.clone(), []

    def seen(apply, arguments):
        batches.append(list(arguments["input"].shape))
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(seen)
    sampling = model.get_model_object("model_sampling")
    sigma = float(sampling.sigmas[TIME])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[text("cond"), {}]], [[text("uncond"), {}]])
    guider.set_cfg(GUIDANCE if guidance else 1.0)
    # The UNet sees x / sqrt(sigma^2 + 1), and the sampler starts from noise * sigma.
    noisy = latents * (sigma**2 + 1) ** 0.5
    result = guider.sample(
        noisy / sigma,
        torch.zeros_like(latents),
        comfy.samplers.sampler_object("euler"),
        torch.tensor([sigma, 0.0]),
        disable_pbar=True,
    )
    denoised = model.model.process_latent_in(result)  # one Euler step to sigma 0 ends at the denoised latents
    return (noisy - denoised) / sigma, batches


def error_of(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(
    ("size", "guidance"),
    [((32, 32), False), ((32, 32), True), ((64, 48), False)],
    ids=["batch 1", "batch 2 with guidance", "64x48"],
)
def test_a_whole_evaluation(both, size, guidance):
    latents = normal("latents", (1, 4, *size))
    expected = in_diffusers(both, latents, guidance=guidance, identity=True)
    ours, batches = in_comfyui(both.patched, latents, guidance=guidance)
    assert batches == [[2 if guidance else 1, 4, *size]]
    without, _ = in_comfyui(both.model, latents, guidance=guidance)
    print(f"error {error_of(ours, expected):.1e}, without the identity {error_of(without, expected):.2f}")
    assert error_of(ours, expected) <= TOLERANCE
    assert error_of(without, expected) > 1e-2


def test_the_two_unets_agree_without_an_identity(both):
    """What is left of the error is the hosts' own."""
    latents = normal("latents", (1, 4, 32, 32))
    ours, _ = in_comfyui(both.model, latents, guidance=False)
    assert error_of(ours, in_diffusers(both, latents, guidance=False, identity=False)) <= TOLERANCE
