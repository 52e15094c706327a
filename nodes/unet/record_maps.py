"""The localisation maps of a finished picture: noise it again to several levels and let the model look at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .run_state import KEY, MapRecorder, RunState


def record_maps(
    model: ModelPatcher,
    positive: Any,
    samples: Tensor,
    *,
    orders: Sequence[int],
    steps: int,
    seed: int,
    batch_index: Sequence[int] | None = None,
    callback: Callable[..., None] | None = None,
) -> Tensor:
    """Maps (B, steps, h, w) in [0, 1], on the CPU, from high noise levels to low ones.

    Args:
        model: with identities applied.
        positive: the host's CONDITIONING of the prompt.
        samples: the finished latents (B, C, h, w).
        orders: whose maps, by their Apply nodes' order; several are added up.
        steps: at how many noise levels.
        seed: of the noise.
        batch_index: the host's numbers of the latents in their batch.
        callback: the host's, called after each level.
    """
    look = _Look(orders)
    # The highest level of a schedule is noise and nothing else: a map of it would show nothing.
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps + 1)[1:]
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    noise = comfy.sample.prepare_noise(samples, seed, batch_index)
    guider.sample(noise, samples, look, sigmas, callback=callback, disable_pbar=True, seed=seed)
    return torch.stack(look.maps, dim=1).detach().cpu()


class _Look(comfy.samplers.Sampler):
    """A sampler that draws nothing: it noises the finished latent to each level and lets the model look at it."""

    def __init__(self, orders: Sequence[int]) -> None:
        self.orders = orders
        self.maps: list[Tensor] = []  # one (B, h, w) a noise level

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The host's contract; returns the latent as it came."""
        options = extra_args["model_options"]["transformer_options"]
        state = RunState.of(options)
        scaling = model_wrap.inner_model.model_sampling
        levels = sigmas[:-1]
        height, width = latent_image.shape[-2:]
        for step, sigma in enumerate(levels):
            recorder = MapRecorder(self.orders, (height, width))
            options[KEY] = replace(state, recorder=recorder)
            noised = scaling.noise_scaling(sigma, noise, latent_image, False)
            denoised = model_wrap(noised, sigma.expand(len(noised)), **extra_args)
            means = recorder.means()
            nothing = latent_image.new_zeros(len(latent_image), height, width)
            self.maps.append(torch.stack(means).sum(dim=0).clamp(max=1.0) if means else nothing)
            if callback is not None:
                callback(step, denoised, noised, len(levels))
        return latent_image
