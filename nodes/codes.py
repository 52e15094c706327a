"""PIDiffSaveCodes, PIDiffLoadCodes and PIDiffListCodes: W+ codes as files."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from comfy_api.latest import io, ui

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.files.cache import FileIdentity, file_identity
from ..pidiff_core.wplus.code_files import SUFFIXES, load_codes, save_new_codes
from ..pidiff_core.wplus.list_codes import describe_codes, listing
from .host.folders import input_file, list_input_files, matches, output_place
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.wire_types import PidiffModel, PidiffWPlus, schema


class SaveCodes(io.ComfyNode):
    """Saves W+ codes as one small safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffSaveCodes",
            display_name="PIDiff Save Codes (Person)",
            category="PIDiff",
            description="Saves a person's W+ codes to the output folder, with their W+ space and origin.",
            search_aliases=["save face", "save person", "save identity", "face model"],
            is_output_node=True,
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="Codes to save. A batch is saved to one file."),
                io.String.Input(
                    "filename_prefix",
                    default="pidiff/person",
                    tooltip="File name below the output folder, with subfolders. A number is added; no file is "
                    "overwritten.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    @checked_inputs
    def execute(cls, wplus: Any, filename_prefix: str) -> io.NodeOutput:
        """See `pidiff_core.wplus.code_files.save_new_codes`."""
        folder, name, subfolder, first = output_place(filename_prefix)
        path = save_new_codes(folder, name, wplus, first=first)
        saved = f"{subfolder}/{path.name}" if subfolder else path.name
        people = f"{len(wplus)} people" if len(wplus) > 1 else "1 person"
        shown = report(text=f"Saved as output/{saved} ({people}). Press R to see it in Load Codes.") or {}
        files = [{"filename": path.name, "subfolder": subfolder, "type": "output"}]
        return io.NodeOutput(ui={**shown, "pidiff_codes": files})


class LoadCodes(io.ComfyNode):
    """Loads W+ codes that this pack or another tool saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLoadCodes",
            display_name="PIDiff Load Codes (Person)",
            category="PIDiff",
            description="Loads a saved person: files of PIDiff Save Codes, or .pt, .pth, .npy and .npz files of other "
            "tools.",
            search_aliases=["load face", "load person", "load identity", "W+ codes", "latent codes"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_input_files(SUFFIXES),
                    tooltip="File of W+ codes in the input or output folder.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["absolute", "offset"],
                    default="absolute",
                    optional=True,
                    tooltip="Meaning of the numbers in other tools' files. Start with absolute: full codes. offset: "
                    "differences from the average code.",
                ),
                PidiffModel.Input(
                    "pidiff_model",
                    optional=True,
                    tooltip="PIDiff model that the codes belong to. Needed for other tools' files, which do not name "
                    "it.",
                ),
            ],
            outputs=[PidiffWPlus.Output("wplus", display_name="wplus", tooltip="The loaded W+ codes.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Check the file itself: ComfyUI's list of files may be older."""
        if file is None:  # linked: known only when it runs
            return True
        try:
            input_file(file)
        except PIDiffError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_others: Any) -> list[tuple[str, FileIdentity]]:
        """Load again when the file has changed; behind a link (None) it may be any of them."""
        return _identities(list_input_files(SUFFIXES) if file is None else [file])

    @classmethod
    @checked_inputs
    def execute(cls, file: str, kind: str = "absolute", pidiff_model: Any = None) -> io.NodeOutput:
        """See `pidiff_core.wplus.code_files.load_codes`."""
        space, average = (pidiff_model.space, pidiff_model.latent_avg) if pidiff_model is not None else (None, None)
        codes = load_codes(input_file(file), space=space, latent_avg=average, are_offsets=kind == "offset")
        return io.NodeOutput(codes)


class ListCodes(io.ComfyNode):
    """Lists the saved people as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffListCodes",
            display_name="PIDiff List Codes (Saved People)",
            category="PIDiff",
            description="Lists saved people: file name, W+ space, number of people, source photos and date.",
            search_aliases=["list faces", "saved persons", "saved identities"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "pattern",
                    default="",
                    tooltip="Folder or pattern, such as pidiff or 'pidiff/anna*'. Start empty: list all.",
                ),
                PidiffModel.Input("pidiff_model", optional=True, tooltip="List only codes that this model can use."),
            ],
            outputs=[
                io.String.Output("listing", display_name="listing", tooltip="Text with one block for each file."),
                io.String.Output("names", display_name="names", tooltip="File names, one per line."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, pattern: str | None = "", **_others: Any) -> list[tuple[str, FileIdentity]]:
        """List again when a file has come, gone or changed."""
        return _identities(_own_names(pattern or ""))

    @classmethod
    @checked_inputs
    def execute(cls, pattern: str = "", pidiff_model: Any = None) -> io.NodeOutput:
        """See `pidiff_core.wplus.list_codes`."""
        described = []
        for name in _own_names(pattern):
            with suppress(PIDiffError):  # a link that leads out of the folder, or a file that has just gone
                described.append(describe_codes(input_file(name), name=name))
        files = [file for file in described if file is not None]
        if pidiff_model is not None:
            files = [file for file in files if file.space == pidiff_model.space]
        text = listing(files) or "No saved people were found."
        return io.NodeOutput(text, "\n".join(file.name for file in files), ui=ui.PreviewText(text))


def _own_names(pattern: str) -> list[str]:
    """Files that PIDiffSaveCodes may have written, by the names that PIDiffLoadCodes takes."""
    return [name for name in list_input_files((".safetensors",)) if matches(name, pattern)]


def _identities(names: list[str]) -> list[tuple[str, FileIdentity]]:
    found = []
    for name in names:
        with suppress(PIDiffError):  # what cannot be read is an error when the node runs
            found.append((name, file_identity(input_file(name))))
    return found
