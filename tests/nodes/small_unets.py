"""Every kind of Stable Diffusion UNet as ComfyUI builds it, small and random, and what goes on at its cross-attentions.

The layouts are the published ones; only the widths are reduced. Where heads have a fixed width of 64, widths are
multiples of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

POOLED = 16  # width of the pooled text; the published models have 1280
LAYOUT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "adm_in_channels": None,
}  # fmt: skip
FOUR_LEVELS = {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4]}
SD = {
    **LAYOUT, **FOUR_LEVELS, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
}  # fmt: skip
XL = {
    **LAYOUT, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "model_channels": 32, "context_dim": 48,
    "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256,
}  # fmt: skip
SD15 = {**SD, "model_channels": 32, "context_dim": 24, "use_linear_in_transformer": False}
SD20 = {**SD, "model_channels": 64, "context_dim": 32, "use_linear_in_transformer": True}
SDXL = {
    **XL, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}  # fmt: skip
REFINER = {
    **XL, **FOUR_LEVELS, "adm_in_channels": POOLED + 5 * 256, "context_dim": 40,
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0], "transformer_depth_middle": 4,
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
}  # fmt: skip
SSD1B = {
    **XL, "transformer_depth": [0, 0, 2, 2, 4, 4], "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
    "transformer_depth_middle": -1,  # a middle block without attention
}  # fmt: skip
KOALA = {
    **XL, "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5], "transformer_depth_middle": -2,  # no middle block at all
}  # fmt: skip
NINE = {"in_channels": 9}  # latent, mask, masked picture's latent

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "SD 1.5": ("SD15", SD15),
    "SD 1.5 inpainting": ("SD15", SD15 | NINE),
    "SD 2.1 v": ("SD20", SD20),
    "SD 2 inpainting": ("SD20", SD20 | NINE),
    "SDXL": ("SDXL", SDXL),
    "SDXL inpainting": ("SDXL", SDXL | NINE),
    "SDXL refiner": ("SDXLRefiner", REFINER),
    "SSD-1B": ("SSD1B", SSD1B),
    "KOALA 700M": ("KOALA_700M", KOALA),
}


SMALLEST: dict[str, tuple[str, dict[str, Any]]] = {
    "SD 1.5, one level": (
        "SD15",
        SD15 | {
            "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1],
        },
    ),
}  # fmt: skip


def build(
    kind: str, *, dtype: torch.dtype = torch.float32, manual_cast: torch.dtype | None = None, seed: int = 0
) -> Any:
    """A MODEL of that kind: the same random weights for the same seed, stored in `dtype`, computed in `manual_cast`."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    name, layout = (KINDS | SMALLEST)[kind]
    config = getattr(comfy.supported_models, name)(layout)
    config.set_inference_dtype(dtype, manual_cast)
    # How ComfyUI tells SD 2.1's v-prediction from SD 2.0: the spread of one bias.
    v_prediction = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
    network = config.get_model(v_prediction if kind.endswith(" v") else {}, "", device="cpu")
    fill(network.diffusion_model, seed=seed)
    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(
        network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )


def fill(network: nn.Module, *, seed: int) -> None:
    """Give a network, whose weights ComfyUI leaves uninitialised, random ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.copy_(_random_weight(parameter.shape, generator))


def _random_weight(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Weights that keep a signal's size from layer to layer; gains and biases alike are small, gains around one half.

    A list of one dimension is a gain or a bias: nobody but its module knows which.
    """
    noise = torch.empty(shape).normal_(generator=generator)
    return noise * shape[1:].numel() ** -0.5 if len(shape) > 1 else 0.5 + 0.1 * noise


def conditioning(model: Any, seed: int, **options: Any) -> list[Any]:
    """CONDITIONING: seven random words, and the pooled text where the model wants one."""
    generator = torch.Generator().manual_seed(seed)
    width = model.model.model_config.unet_config["context_dim"]
    pooled = {"pooled_output": torch.randn(1, POOLED, generator=generator)} if model.model.adm_channels else {}
    return [[torch.randn(1, 7, width, generator=generator), {**pooled, **options}]]


def latents(height: int, width: int, *, batch: int = 1, seed: int = 3) -> dict[str, Tensor]:
    """LATENT: random, as from a picture."""
    return {"samples": torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))}


def random_lora(model: Any, part: str, *, rank: int = 4, seed: int = 4) -> dict[str, Tensor]:
    """A LoRA file's tensors for every layer of the cross-attentions in `part` of the UNet, such as "output_blocks"."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for path, layer in model.model.diffusion_model.named_modules():
        if path.startswith(part) and re.search(r"attn2\.to_(q|k|v|out\.0)$", path):
            name = "lora_unet_" + path.replace(".", "_")
            out, into = layer.weight.shape
            state[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * rank**-0.5
            state[f"{name}.lora_down.weight"] = torch.randn(rank, into, generator=generator) * into**-0.5
            state[f"{name}.alpha"] = torch.tensor(float(rank))
    return state


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Tensor],
    *,
    steps: int = 2,
    cfg: float = 3.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    **named: Any,
) -> Tensor:
    """What ComfyUI's own KSampler node makes of it: latents (B, 4, h, w)."""
    import nodes as host_nodes

    out = host_nodes.common_ksampler(model, 7, steps, cfg, sampler, scheduler, positive, negative, latent, **named)
    return out[0]["samples"]


def run_node(node: Any, **inputs: Any) -> Any:
    """The first output of a node of ComfyUI's, of its old or of its new kind."""
    out = getattr(node(), node.FUNCTION)(**inputs)
    return getattr(out, "result", out)[0]


@dataclass
class SiteCall:
    """One cross-attention in one evaluation of a UNet.

    Attributes:
        site: its name.
        evaluation: which evaluation of the UNet, from 1.
        size: height and width of the feature map.
        context: the prompts (B, L, W).
        q, text, output: its queries, the text's attention, and what `to_out` gets, all (B, N, C).

    All on the CPU.
    """

    site: str
    evaluation: int
    size: tuple[int, int]
    context: Tensor
    q: Tensor
    text: Tensor
    output: Tensor

    @property
    def added(self) -> Tensor:
        """What was added to the text's output before `to_out`."""
        return self.output - self.text


@dataclass
class Watch:
    """What the cross-attentions of a UNet have been asked and have answered, in order."""

    calls: list[SiteCall] = field(default_factory=list)
    evaluations: int = 0

    def first(self) -> dict[str, SiteCall]:
        """The first evaluation's calls by site."""
        return {call.site: call for call in self.calls if call.evaluation == 1}


def cross_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """Every cross-attention by site name, read off the names of ComfyUI's modules."""
    found = {}
    for path, module in unet.named_modules():
        if match := re.fullmatch(r"(input|middle|output)_blocks?\.(.*?)\.?1\.transformer_blocks\.(\d+)\.attn2", path):
            found[f"{match[1]}.{match[2] or 0}.{match[3]}"] = module
    return found


def small_vae() -> Any:
    """A VAE of four latent channels as ComfyUI builds Stable Diffusion's, narrow and random."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    fields = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    network = AutoencoderKL(ddconfig=dict(fields), embed_dim=4)
    fill(network, seed=9)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": {"ddconfig": fields, "embed_dim": 4}})


@contextmanager
def watch(model: Any) -> Iterator[Watch]:
    """Listen at every cross-attention of a MODEL's UNet, whoever replaces it: before and after what is computed."""
    from comfy.ldm.modules.attention import optimized_attention

    unet = model.model.diffusion_model
    seen = Watch()
    now: dict[str, Any] = {}

    def start(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
        seen.evaluations += 1
        now["context"] = named["context"]

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        now["size"] = tuple(inputs[0].shape[-2:])

    def keep(name: str) -> Any:
        return lambda _, __, out: now.update({name: out})

    def finish(site: str, attention: Any) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            q, k, v = (now[name].clone() for name in "qkv")
            text = optimized_attention(q, k, v, attention.heads, attn_precision=attention.attn_precision)
            found = (one.cpu() for one in (now["context"], q, text, inputs[0].clone()))
            seen.calls.append(SiteCall(site, seen.evaluations, now["size"], *found))

        return hook

    with ExitStack() as hooks:
        hooks.callback(unet.register_forward_pre_hook(start, with_kwargs=True).remove)
        for module in unet.modules():
            if hasattr(module, "transformer_blocks"):
                hooks.callback(module.register_forward_pre_hook(enter).remove)
        for site, attention in cross_attentions(unet).items():
            for name in "qkv":
                hooks.callback(getattr(attention, f"to_{name}").register_forward_hook(keep(name)).remove)
            hooks.callback(attention.to_out.register_forward_pre_hook(finish(site, attention)).remove)
        yield seen


class Person:
    """An adapter for a model's UNet with random weights, and somebody's codes.

    Args:
        pack: the checkout as ComfyUI loads it.
        model: what the adapter is made for: it reads the sites there.
        settings: further fields of `AdapterConfig`.
    """

    def __init__(self, pack: Any, model: Any, **settings: Any) -> None:
        self._patching = pack.load("nodes.unet.apply")
        config, networks, codes = (
            pack.load(f"pidiff_core.{name}") for name in ("adapter.config", "adapter.adapter", "wplus.codes")
        )
        self.found = pack.load("nodes.unet.sites").unet_sites(model)
        sites = tuple(site.spec for site in self.found.values())
        width = next(iter(self.found.values())).context_width
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.adapter = networks.IdentityAdapter(
                config.AdapterConfig(sites=sites, code_width=16, token_width=width, **settings)
            ).requires_grad_(False)
            for branch in self.adapter.sites.values():
                nn.init.normal_(branch.to_v.weight, std=0.2)
            self.wplus = codes.WPlus(torch.randn(1, 18, 16), torch.randn(18, 16), codes.WPlusSpace("test", 18, 16))

    def on(self, model: Any, *, mask: Tensor | None = None, **options: Any) -> Any:
        """The model with this person in it; `options` are those of `ApplyOptions`."""
        return self._patching.apply_identity(
            model, self.adapter, self.wplus, options=self._patching.ApplyOptions(**options), mask_bhw=mask
        )

    def expected(self, call: SiteCall, positives: Sequence[Any], *, strength: float = 1.0) -> Tensor:
        """What the readable twin adds for the same query: to the rows with a positive prompt, nothing to the others."""
        tokens = self.adapter.tokens(self.wplus).expand(len(call.q), -1, -1)
        added, _ = self.adapter.branch(call.site)(call.q.float(), call.text.float(), tokens=tokens)
        own = [any(torch.equal(row, text[0].to(row)) for text, _ in positives) for row in call.context]
        return strength * added * torch.tensor(own)[:, None, None]
