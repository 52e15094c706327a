"""LoadPIDiff: adapter and encoder from files in models/pidiff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.files.loading import load_pidiff
from .host.folders import identities, list_pidiff_files, model_file
from .host.inputs import checked_inputs
from .host.model_management import PRECISIONS, place, precision_dtype
from .host.wire_types import PidiffModel, schema

NONE = "none"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


class LoadPIDiff(io.ComfyNode):
    """Loads an identity model from the user's files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        files = list_pidiff_files(SUFFIXES)
        return schema(
            node_id="LoadPIDiff",
            display_name="Load PIDiff Model (Identity Adapter, Face Encoder)",
            category="PIDiff",
            description=(
                "Loads an identity adapter and a face encoder from models/pidiff: the published W+ Adapter with e4e, "
                "or an adapter trained with this pack. The file type is detected from the contents, not from the name."
            ),
            search_aliases=["PIDiff", "W+ Adapter", "e4e", "StyleGAN", "identity adapter", "face encoder"],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=[NONE, *files],
                    tooltip="Identity adapter file: wplus_adapter.bin or a PIDiff adapter (.safetensors). "
                    "none: only encode, edit and save codes.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[NONE, *files],
                    tooltip="Face encoder file: e4e_ffhq_encode.pt, or the file that "
                    "`python -m pidiff_core.files.convert` wrote from it. none: use codes that were saved before.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    optional=True,
                    tooltip="Data type of the encoder and the generator. Start with auto: on a GPU bf16 if ComfyUI "
                    "uses it, otherwise fp16 or fp32; on a CPU bf16 if it is faster there (measured once), otherwise "
                    "fp32. fp16 and bf16 need half the memory.",
                ),
            ],
            outputs=[
                PidiffModel.Output("pidiff_model", display_name="pidiff_model", tooltip="The loaded PIDiff model.")
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter: str | None, encoder: str | None) -> bool | str:
        """An error that names the searched folders, instead of ComfyUI's "value not in list"."""
        try:
            for name, what in ((adapter, "adapter"), (encoder, "encoder")):
                if name not in (NONE, None):  # None: linked, known only at run time
                    model_file(name, what=what)
        except PIDiffError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, adapter: str | None, encoder: str | None, **_others: Any
    ) -> list[list[tuple[str, FileIdentity]]]:
        """Load again when a file has changed; behind a link (None) it may be any of them."""
        return [_identities(name) for name in (adapter, encoder)]

    @classmethod
    @checked_inputs
    def execute(cls, adapter: str, encoder: str, precision: str = "auto") -> io.NodeOutput:
        """Fast, because the weights of encoder and generator stay in their file until a node uses them."""

        def path(name: str, what: str) -> Path | None:
            return None if name == NONE else model_file(name, what=what)

        return io.NodeOutput(
            load_pidiff(
                adapter=path(adapter, "adapter"),
                encoder=path(encoder, "encoder"),
                dtype=precision_dtype(precision),
                place=place,
            )
        )


def _identities(name: str | None) -> list[tuple[str, FileIdentity]]:
    if name == NONE:
        return []
    return identities(list_pidiff_files(SUFFIXES) if name is None else [name])
