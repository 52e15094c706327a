"""PIDiffLocalise: a map of the area of a picture in which an identity acts."""

from __future__ import annotations

from typing import Any

import latent_preview
from comfy_api.latest import io

from ..pidiff_core.adapter.overlay import heat, overlay, resize_maps
from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.images import check_image_bhwc
from .host.inputs import check_prompt, checked_inputs, checked_samples
from .host.node_report import report
from .host.wire_types import schema
from .unet.apply import run_state_of
from .unet.record_maps import record_maps


class Localise(io.ComfyNode):
    """Computes the identity's attention map of a finished picture, as a mask and as images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLocalise",
            display_name="PIDiff Attention Map (Face Mask)",
            category="PIDiff",
            description=(
                "Shows which area of a picture the person acts on, as a mask and as images. Adds noise to the latent "
                "at several levels and runs the model once at each; the picture is not changed."
            ),
            has_intermediate_output=True,
            search_aliases=["attention map", "face mask", "person mask", "localise", "localisation", "heat map"],
            inputs=[
                io.Model.Input("model", tooltip="MODEL output of Apply Identity Adapter."),
                io.Conditioning.Input("positive", tooltip="Prompt of the picture, or one that describes it."),
                io.Latent.Input("latent", tooltip="Latent of the finished picture, from the sampler or VAE Encode."),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="Number of noise levels. Start with 6."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the noise. Start with 0."
                ),
                io.Int.Input(
                    "person",
                    default=0,
                    min=-1,
                    max=63,
                    optional=True,
                    tooltip="Number of the Apply node in the chain. Start with 0, the first; -1: all people together.",
                ),
                io.Boolean.Input(
                    "stretch",
                    default=True,
                    optional=True,
                    tooltip="Stretch each map to the full range from black to white. Start with on; off keeps the "
                    "values, to compare maps.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="Decoded picture for the overlay; sets the output size."
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask", tooltip="Mean map of each picture."),
                io.Image.Output("overlay", display_name="overlay", tooltip="Mean map drawn over the picture."),
                io.Image.Output(
                    "step_maps", display_name="steps", tooltip="Map at each noise level, picture by picture."
                ),
            ],
        )

    @classmethod
    @checked_inputs
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
        """See `unet.record_maps.record_maps`."""
        check_prompt(model, positive, name="positive")
        state = run_state_of(model)
        if not state.in_row:
            raise PIDiffError("This model has no identity applied. Connect the MODEL output of Apply Identity Adapter.")
        if person >= len(state.in_row):
            raise PIDiffError(
                f"Person {person} was asked for, but this model has {len(state.in_row)}, counted from 0 along the "
                "chain of Apply Identity Adapter nodes. Choose one of them, or -1 for all."
            )
        samples = checked_samples(model, latent, name="the latent")
        image = None if image is None else check_image_bhwc(image, name="image")
        if image is not None and len(image) != len(samples):
            raise PIDiffError(
                f"{len(image)} pictures were given for {len(samples)} latents. Give the pictures that were decoded "
                "from this latent."
            )
        maps = record_maps(
            model,
            positive,
            samples,
            orders=[identity.order for identity in state.identities if person in (-1, identity.order)],
            steps=steps,
            seed=seed,
            batch_index=latent.get("batch_index"),
            callback=latent_preview.prepare_callback(model, steps),
        )
        size_px = (samples.shape[-2] * 8, samples.shape[-1] * 8) if image is None else tuple(image.shape[1:3])
        mask = resize_maps(maps.mean(dim=1), size_px, stretch=stretch)
        each = heat(resize_maps(maps.flatten(0, 1), size_px, stretch=stretch))
        shown = heat(mask) if image is None else overlay(mask, image)
        return io.NodeOutput(mask, shown, each, ui=report(images_bhwc=shown))
