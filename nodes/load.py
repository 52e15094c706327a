"""LoadPIDiff: adapter and encoder from files in models/pidiff."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.loading import load_pidiff
from .folders import list_pidiff_files, model_file
from .placement import PRECISIONS, place, precision_dtype
from .wires import PidiffModel, schema

NONE = "none"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


class LoadPIDiff(io.ComfyNode):
    """An identity model from the user's own files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        files = list_pidiff_files(SUFFIXES)
        return schema(
            node_id="LoadPIDiff",
            display_name="Load PIDiff",
            category="PIDiff",
            description=(
                "Loads an identity adapter and a W+ encoder from models/pidiff: PIDiff adapters that the pack's "
                "trainer made, or the published W+ Adapter with e4e. What a file is, its content decides."
            ),
            search_aliases=["PIDiff", "W+ Adapter", "e4e"],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=[NONE, *files],
                    tooltip="The adapter: a PIDiff adapter (.safetensors) or wplus_adapter.bin. None: codes only.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[NONE, *files],
                    tooltip="The encoder: e4e_ffhq_encode.pt, or what `python -m pidiff_core.convert` made of it.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    optional=True,
                    tooltip="In what the encoder and the generator run. auto: fp32 on a CPU; on a GPU bf16 where "
                    "ComfyUI uses it, else fp16 or fp32. fp16 and bf16 take half the memory.",
                ),
            ],
            outputs=[PidiffModel.Output("pidiff_model", display_name="pidiff_model", tooltip="What was loaded.")],
        )

    @classmethod
    def validate_inputs(cls, adapter: str | None, encoder: str | None) -> bool | str:
        """Our own sentence in place of ComfyUI's "value not in list": it names the folders that were searched."""
        try:
            for name, what in ((adapter, "adapter"), (encoder, "encoder")):
                if name not in (NONE, None):  # None: linked, known only when it runs
                    model_file(name, what=what)
        except PIDiffError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, adapter: str | None, encoder: str | None, **_others: Any
    ) -> list[list[tuple[str, int, int]]]:
        """Load again when a file has changed; behind a link (None) it may be any of them."""
        return [_marks(name) for name in (adapter, encoder)]

    @classmethod
    def execute(cls, adapter: str, encoder: str, precision: str = "auto") -> io.NodeOutput:
        """Quick: the weights of encoder and generator stay in their file until a node uses them."""

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


def _marks(name: str | None) -> list[tuple[str, int, int]]:
    if name == NONE:
        return []
    marks = []
    for candidate in list_pidiff_files(SUFFIXES) if name is None else [name]:
        with suppress(PIDiffError, OSError):  # what cannot be read is an error where it is loaded
            status = model_file(candidate, what="file").stat()
            marks.append((candidate, status.st_size, status.st_mtime_ns))
    return marks
