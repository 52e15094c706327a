"""PIDiffLocalise: where in a picture an identity acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ..pidiff_core.adapter.localisation import MapAverage
from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.overlay import heat, overlay, resize_maps
from ..pidiff_core.shapes import check_shape
from .identity import Identity
from .patching import applies_of, people_of
from .watch import WATCH_KEY, Watch
from .wires import schema


class Localise(io.ComfyNode):
    """The identity's map of a finished picture: to look at, and to use as a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLocalise",
            display_name="PIDiff Localise",
            category="PIDiff",
            description=(
                "Shows where in a picture the person acts, as a mask and as pictures. The latent is noised again to "
                "several noise levels and the model looks at it once for each; nothing is drawn."
            ),
            search_aliases=["attention map", "face mask", "localisation"],
            inputs=[
                io.Model.Input("model", tooltip="The model that ApplyIdentityAdapter has patched."),
                io.Conditioning.Input("positive", tooltip="The prompt that the picture was drawn with."),
                io.Latent.Input("latent", tooltip="The finished picture's latent, from the sampler or VAE Encode."),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="At how many noise levels, from high to low."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the noise."),
                io.Int.Input(
                    "person",
                    default=0,
                    min=-1,
                    max=63,
                    optional=True,
                    tooltip="Which Apply node's person, counted along the chain from 0; -1: all together.",
                ),
                io.Boolean.Input(
                    "stretch",
                    default=True,
                    optional=True,
                    tooltip="Stretch each map to the whole range from black to white. Off: the map's own values.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The decoded picture, to lay the map over; sets the size."
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask", tooltip="The mean map of each picture."),
                io.Image.Output("overlay", display_name="overlay", tooltip="The mean map over the picture."),
                io.Image.Output(
                    "step_maps", display_name="steps", tooltip="The map at each noise level, picture after picture."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        steps: int,
        seed: int,
        person: int = 0,
        stretch: bool = True,
        image: Any = None,
    ) -> io.NodeOutput:
        """See `pidiff_core.adapter.localisation`."""
        applies = len(applies_of(model))
        if not applies:
            raise PIDiffError("Nobody acts in this model. Connect the model that comes out of ApplyIdentityAdapter.")
        if person >= applies:
            raise PIDiffError(
                f"Person {person} was asked for, but this model has {applies}, counted from 0 along the chain of "
                "ApplyIdentityAdapter. Choose one of them, or -1 for all."
            )
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        check_shape(samples, "B C H W", name="the latent")
        if image is not None and len(image) != len(samples):
            raise PIDiffError(
                f"{len(image)} pictures were given for {len(samples)} latents. Give the pictures that were decoded "
                "from this latent."
            )
        size_px = (samples.shape[-2] * 8, samples.shape[-1] * 8) if image is None else tuple(image.shape[1:3])
        look = _Look([identity for identity in people_of(model) if person in (-1, identity.order)])
        # The highest level of a schedule is noise and nothing else: there is nothing to find in it.
        levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps + 1)[1:]
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": positive})
        guider.sample(
            comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
            samples,
            look,
            levels,
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=True,
            seed=seed,
        )
        maps = torch.stack(look.maps, dim=1).detach().cpu()  # (B, steps, h, w)
        mask = resize_maps(maps.mean(dim=1), size_px, stretch=stretch)
        each = heat(resize_maps(maps.flatten(0, 1), size_px, stretch=stretch))
        return io.NodeOutput(mask, heat(mask) if image is None else overlay(mask, image), each)


class _Look(comfy.samplers.Sampler):
    """A sampler that draws nothing: it noises the finished latent to each level and lets the model look at it."""

    def __init__(self, people: Sequence[Identity]) -> None:
        self.people = people
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
        watch = options.setdefault(WATCH_KEY, Watch(options))
        scaling = model_wrap.inner_model.model_sampling
        levels = sigmas[:-1]
        for step, sigma in enumerate(levels):
            watch.maps = {identity: MapAverage(tuple(latent_image.shape[-2:])) for identity in self.people}
            noised = scaling.noise_scaling(sigma, noise, latent_image, False)
            denoised = model_wrap(noised, sigma.expand(len(noised)), **extra_args)
            seen = [found for average in watch.maps.values() if (found := average.mean()) is not None]
            nothing = latent_image.new_zeros(len(latent_image), *latent_image.shape[-2:])
            self.maps.append(torch.stack(seen).sum(dim=0).clamp(max=1.0) if seen else nothing)
            if callback is not None:
                callback(step, denoised, noised, len(levels))
        return latent_image
