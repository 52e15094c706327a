"""ApplyIdentityAdapter: the identity into the UNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.adapter.presets import PRESETS, site_factors
from ..pidiff_core.editing.averaging import mean_of_groups
from .patching import ApplyOptions, apply_identity
from .wires import PidiffModel, PidiffWPlus, schema

UNCONDITIONAL = ("auto", "nothing", "average person")
PLACES = ("anywhere", "left to right")


class ApplyIdentityAdapter(io.ComfyNode):
    """Puts people into the pictures of a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""

        def level(name: str, what: str) -> io.Float.Input:
            return io.Float.Input(
                name, default=1.0, min=0.0, max=2.0, step=0.05, optional=True, tooltip=f"Strength of {what}."
            )

        return schema(
            node_id="ApplyIdentityAdapter",
            display_name="Apply Identity Adapter",
            category="PIDiff",
            description="Makes a model draw the person whose W+ codes are given. Chain it for several people.",
            search_aliases=["identity", "face", "IPAdapter", "personalise"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; the original stays as it is."),
                PidiffModel.Input("pidiff_model", tooltip="The PIDiff model that holds the adapter."),
                PidiffWPlus.Input(
                    "wplus", tooltip="The people. Picture i of a batch shows person i, counted round and round."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How strongly the person is drawn. 0 is the model without PIDiff, bit for bit.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="When the person comes in. W+ Adapter waits for 0.2: the composition is the prompt's.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="When the person is done."
                ),
                level("coarse", "the coarse styles: pose, shape of the head"),
                level("medium", "the medium styles: features, hair style"),
                level("fine", "the fine styles: colours, texture"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the person may be, white = there. Any size. Without it, everywhere: "
                    "the adapter finds the face itself.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="portrait",
                    optional=True,
                    tooltip="Where in the UNet and when the person acts, multiplied with what is set above. portrait: "
                    "the adapter as it was trained. likeness first: more of the person. prompt first: less, and later. "
                    "style transfer: colours and texture only. composition kept: the layout is the prompt's. "
                    "W+ Adapter: nobody in the first fifth of the steps, as its authors' code does.",
                ),
                io.String.Input(
                    "site_strengths",
                    default="",
                    optional=True,
                    tooltip="Strengths of single sites of the UNet, multiplied in: 'middle=0 output=1.2 input.4.1=0.5' "
                    "names a block, an entry of it or one cross-attention, from 0 to 10. The rest stays at 1.",
                ),
                io.Combo.Input(
                    "unconditional",
                    options=list(UNCONDITIONAL),
                    default="auto",
                    optional=True,
                    tooltip="What the unconditional half of guidance gets: nothing, or the adapter's average person. "
                    "auto: what the adapter was trained for (PIDiff: nothing, W+ Adapter: average person).",
                ),
                io.Int.Input(
                    "photos_per_person",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="How many codes in a row are photos of one and the same person; they are averaged.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default="anywhere",
                    optional=True,
                    tooltip="left to right: several Apply nodes without masks share the faces of the picture, in the "
                    "order in which they are chained. anywhere: all act wherever they find a face.",
                ),
            ],
            outputs=[io.Model.Output("patched", display_name="model", tooltip="The patched model.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        pidiff_model: Any,
        wplus: Any,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        coarse: float = 1.0,
        medium: float = 1.0,
        fine: float = 1.0,
        mask: Any = None,
        preset: str = "portrait",
        site_strengths: str = "",
        unconditional: str = "auto",
        photos_per_person: int = 1,
        place: str = "anywhere",
    ) -> io.NodeOutput:
        """See `patching.apply_identity` and `pidiff_core.adapter.presets`."""
        adapter = pidiff_model.require("adapter", purpose="to draw a person")
        pidiff_model.require_space_of(wplus)
        sites = site_factors(preset, [spec.name for spec in adapter.config.sites], text=site_strengths or "")
        chosen = PRESETS[preset]
        levels = {"coarse": coarse, "medium": medium, "fine": fine}
        average = unconditional == "average person"
        options = ApplyOptions(
            strength=strength,
            start_percent=max(start_percent, chosen.start_percent),
            end_percent=min(end_percent, chosen.end_percent),
            levels={level: value * chosen.levels.get(level, 1.0) for level, value in levels.items()},
            sites=sites,
            uncond_average=adapter.config.format == "wplus-adapter" if unconditional == "auto" else average,
            beside=place == "left to right",
        )
        people = mean_of_groups(wplus, photos_per_person)
        return io.NodeOutput(apply_identity(model, adapter, people, options=options, mask_bhw=mask))
