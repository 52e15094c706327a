"""PIDiffLoadMini: the embedded default, ready for the stock KSampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..pidiff_core.loading import share
from .placement import managed
from .wires import PidiffModel, schema


class LoadMini(io.ComfyNode):
    """The drawn world's base model and its identity model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLoadMini",
            display_name="Load PIDiff Mini (embedded)",
            category="PIDiff",
            description=(
                "The embedded model: small, trained by this project on drawn people, for 128x128 pictures. It shows "
                "and measures the method without any download; for real pictures load Stable Diffusion 1.5 and "
                "LoadPIDiff instead."
            ),
            search_aliases=["PIDiff mini", "embedded", "drawn people"],
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="UNet for 128x128 pictures (16x16 latents)."),
                io.Clip.Output("clip", display_name="clip", tooltip="Text encoder with the drawn world's words."),
                io.Vae.Output("vae", display_name="vae", tooltip="Autoencoder: 8x smaller, 4 channels."),
                PidiffModel.Output(
                    "pidiff_model", display_name="pidiff_model", tooltip="Encoder, generator and adapter."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """See `pidiff_core.mini.bundle`."""
        # Imported only now: the drawn world is half of the pack's modules, and ComfyUI's start should not wait for it.
        from ..pidiff_core.mini.bundle import load_base, load_identity
        from .mini_host import build_clip, build_model, build_vae

        tensors, config = load_base()
        identity = share("mini", lambda: managed(load_identity()))
        return io.NodeOutput(
            build_model(tensors, config), build_clip(tensors, config), build_vae(tensors, config), identity
        )
