"""PIDiffLoadMini: the embedded default, ready for the stock KSampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..pidiff_core.files.cache import shared
from .host.model_management import managed
from .host.wire_types import PidiffModel, schema


class LoadMini(io.ComfyNode):
    """The drawn world's base model and its identity model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLoadMini",
            display_name="Load PIDiff Mini (embedded, drawn people)",
            category="PIDiff",
            description=(
                "Loads the small model that comes with the pack: 128x128 pictures of drawn people, no download. It "
                "demonstrates the method. For photos use a Stable Diffusion 1.5 checkpoint with Load PIDiff Model."
            ),
            search_aliases=["PIDiff mini", "embedded", "drawn people", "demo", "example"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="Diffusion model for 128x128 pictures (16x16 latents)."
                ),
                io.Clip.Output("clip", display_name="clip", tooltip="Text encoder; knows 103 English words."),
                io.Vae.Output("vae", display_name="vae", tooltip="Autoencoder for VAE Encode and VAE Decode."),
                PidiffModel.Output(
                    "pidiff_model", display_name="pidiff_model", tooltip="Face encoder, generator and identity adapter."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """See `pidiff_core.mini.bundle`."""
        # Imported only now: the drawn world is half of the pack's modules, and ComfyUI's start should not wait for it.
        from ..pidiff_core.mini.bundle import load_base, load_identity
        from .host.mini_models import build_clip, build_model, build_vae

        tensors, config = load_base()
        identity = shared("mini", lambda: managed(load_identity()))
        return io.NodeOutput(
            build_model(tensors, config), build_clip(tensors, config), build_vae(tensors, config), identity
        )
