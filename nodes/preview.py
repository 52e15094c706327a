"""PIDiffPreviewCodes: decode W+ codes into portraits."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.pipeline import decode
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.progress import progress_bar
from .host.wire_types import PidiffModel, PidiffWPlus, schema


class PreviewCodes(io.ComfyNode):
    """Decodes W+ codes with the StyleGAN2 generator."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffPreviewCodes",
            display_name="PIDiff Preview Codes (Portrait)",
            category="PIDiff",
            description="Decodes W+ codes into a portrait with StyleGAN2, to check what the encoder read from the "
            "photo.",
            has_intermediate_output=True,
            search_aliases=["decode W+", "StyleGAN", "face", "portrait"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model that the codes were encoded with."),
                PidiffWPlus.Input("wplus", tooltip="W+ codes. A batch gives a batch of portraits."),
            ],
            outputs=[io.Image.Output("portrait", display_name="portrait", tooltip="One portrait per code.")],
        )

    @classmethod
    @checked_inputs
    def execute(cls, pidiff_model: Any, wplus: Any) -> io.NodeOutput:
        """See `pidiff_core.pipeline.decode`."""
        portraits = decode(pidiff_model, wplus, on_progress=progress_bar())
        return io.NodeOutput(portraits, ui=report(images_bhwc=portraits))
