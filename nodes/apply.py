"""ApplyIdentityAdapter: the identity into the UNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .patching import ApplyOptions, apply_identity
from .wires import PidiffModel, PidiffWPlus, schema


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
    ) -> io.NodeOutput:
        """See `patching.apply_identity`."""
        adapter = pidiff_model.require("adapter", purpose="to draw a person")
        pidiff_model.require_space_of(wplus)
        options = ApplyOptions(
            strength=strength,
            start_percent=start_percent,
            end_percent=end_percent,
            levels={"coarse": coarse, "medium": medium, "fine": fine},
            uncond_average=adapter.config.format == "wplus-adapter",
        )
        return io.NodeOutput(apply_identity(model, adapter, wplus, options=options, mask_bhw=mask))
