"""Stable Diffusion 1.5's UNet in a real ComfyUI, random; one evaluation of it, and a stopwatch for its hooks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Hook = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]

CONTEXT_WIDTH, TEXT_TOKENS = 768, 77
SIGMA = 5.0


@dataclass(frozen=True)
class Patches:
    """What a pack has put on a model.

    Args:
        hooks: by ComfyUI's key of a cross-attention, (block, number).
        wrappers: around the host's functions, as its transformer_options hold them.
        state: further entries of the transformer_options, by key.
    """

    hooks: Mapping[Any, Hook] = field(default_factory=dict)
    wrappers: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def on(cls, model: Any) -> Patches:
        """Those of a ModelPatcher."""
        options = model.model_options["transformer_options"]
        state = {key: value for key, value in options.items() if key == "pidiff"}
        return cls(options.get("patches_replace", {}).get("attn2", {}), model.wrappers, state)

    def around(self, call: Callable[..., Tensor]) -> Patches:
        """The same, but `call(hook, q, k, v, extra_options)` runs where the hook would have."""
        hooks: dict[Any, Hook] = {key: functools.partial(call, hook) for key, hook in self.hooks.items()}
        return Patches(hooks, self.wrappers, self.state)


class TextAttention:
    """The host's attention as all hooks of a benchmark call it for the text: a place to time or mark these calls."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        self._attention = attention
        self._around: Callable[..., Tensor] | None = None

    @classmethod
    def of(cls, pack: Any) -> TextAttention:
        """ComfyUI's, put into our own hooks too; the same one for the same pack."""
        site_patch = pack.load("nodes.unet.attn2_patch")
        if not isinstance(site_patch.optimized_attention, cls):
            site_patch.optimized_attention = cls(site_patch.optimized_attention)
        return site_patch.optimized_attention

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._around is None:
            return self._attention(*args, **kwargs)
        return self._around(self._attention, *args, **kwargs)

    @contextmanager
    def within(self, around: Callable[..., Tensor]) -> Iterator[None]:
        """For a while, `around(attention, *args, **kwargs)` runs in its place."""
        self._around = around
        try:
            yield
        finally:
            self._around = None


def random_sd15(*, device: torch.device, dtype: torch.dtype, channels: int = 320) -> Any:
    """ComfyUI's ModelPatcher around its own SD 1.5 UNet; fewer `channels` on the first level scale it down."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": channels,
            "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
            "context_dim": CONTEXT_WIDTH, "num_heads": 8, "use_spatial_transformer": True, "legacy": False,
            "use_linear_in_transformer": False, "adm_in_channels": None,
        }
    )  # fmt: skip
    config.set_inference_dtype(dtype, None)
    network = config.get_model({}, "", device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in network.diffusion_model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:  # keeps a signal's size from layer to layer
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    model = comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=torch.device("cpu"))
    comfy.model_management.load_models_gpu([model])
    return model


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the UNet on a batch whose first half is conditional and whose second is not.

    Args:
        model: ComfyUI's ModelPatcher.
        latents: (B, 4, h, w), B even.
        context: the text (B, 77, 768).
    """

    model: Any
    latents: Tensor
    context: Tensor

    @classmethod
    def random(cls, model: Any, *, size_px: int, batch: int) -> Evaluation:
        """Of pictures of size_px x size_px; float32 latents, as ComfyUI's samplers hold them."""
        generator = torch.Generator().manual_seed(1)
        side = size_px // 8
        latents = torch.randn(batch, 4, side, side, generator=generator) * SIGMA
        context = torch.randn(batch, TEXT_TOKENS, CONTEXT_WIDTH, generator=generator)
        return cls(model, latents.to(model.load_device), context.to(model.load_device))

    @torch.inference_mode()
    def __call__(self, patches: Patches) -> Tensor:
        """The denoised latents, with these patches."""
        sigma = torch.full((len(self.latents),), SIGMA, device=self.latents.device)
        options = {"cond_or_uncond": [0, 1], "sigmas": sigma[: len(sigma) // 2]}
        options |= {"patches_replace": {"attn2": dict(patches.hooks)}, "wrappers": dict(patches.wrappers)}
        options |= patches.state
        return self.model.model.apply_model(self.latents, sigma, c_crossattn=self.context, transformer_options=options)


class Stopwatch:
    """Adds up the time that hooks take beyond the text's attention, which is timed inside the same call.

    Args:
        device: on a GPU, every reading of the clock synchronises first.
        text: the function that the hooks call.
    """

    def __init__(self, device: torch.device, text: TextAttention) -> None:
        self._inside_s, self._text_s = 0.0, 0.0
        self._wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._text = text

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()

    def timed(self, hook: Hook, *inputs: Any) -> Tensor:
        """A call of a hook, for `Patches.around`."""
        with self._text.within(self._timed_text):
            self._text_s, began = 0.0, self._now()
            out = hook(*inputs)
            self._inside_s += self._now() - began - self._text_s
        return out

    def _timed_text(self, attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        began = self._now()
        out = attention(*args, **kwargs)
        self._text_s += self._now() - began
        return out

    def take(self) -> float:
        """The seconds so far; starts again from 0."""
        seconds, self._inside_s = self._inside_s, 0.0
        return seconds


class Replay:
    """The inputs of every hook in one real evaluation, to call hooks again without the rest of the UNet.

    Args:
        patches: whose sites and wrappers there are in that evaluation.
        attention: the replacement of their hooks.

    Attributes:
        calls: (key, (q, k, v), extra_options) of each, in order.
    """

    def __init__(self, evaluate: Evaluation, patches: Patches, *, attention: Hook) -> None:
        self.calls: list[tuple[Any, tuple[Tensor, Tensor, Tensor], dict[str, Any]]] = []

        def recorder(key: Any) -> Hook:
            def record(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
                self.calls.append((key, (q.clone(), k.clone(), v.clone()), dict(extra_options)))
                return attention(q, k, v, extra_options)

            return record

        evaluate(Patches({key: recorder(key) for key in patches.hooks}, patches.wrappers, patches.state))

    @torch.inference_mode()
    def outputs(self, patches: Patches) -> dict[Any, Tensor]:
        """What each hook returns."""
        return {key: patches.hooks[key](*qkv, dict(options)) for key, qkv, options in self.calls}

    @torch.inference_mode()
    def time(self, patches: Patches, watch: Stopwatch) -> float:
        """Seconds inside all hooks of one evaluation."""
        for key, qkv, options in self.calls:
            watch.timed(patches.hooks[key], *qkv, dict(options))
        return watch.take()
