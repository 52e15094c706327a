"""PIDiffPreviewCodes: W+ codes -> the generator's portraits of them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.model import decode
from .wires import PidiffModel, PidiffWPlus, schema


class PreviewCodes(io.ComfyNode):
    """What the codes say, as the StyleGAN2 generator paints it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffPreviewCodes",
            display_name="PIDiff Preview Codes",
            category="PIDiff",
            description="Paints a portrait of W+ codes with StyleGAN2: what the encoder has understood of the person.",
            search_aliases=["decode W+", "StyleGAN"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="The PIDiff model that the codes belong to."),
                PidiffWPlus.Input("wplus", tooltip="The codes; a batch gives a batch of portraits."),
            ],
            outputs=[io.Image.Output("portrait", display_name="portrait", tooltip="One portrait for each code.")],
        )

    @classmethod
    def execute(cls, pidiff_model: Any, wplus: Any) -> io.NodeOutput:
        """See `pidiff_core.model.decode`."""
        return io.NodeOutput(decode(pidiff_model, wplus))
