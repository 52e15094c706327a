"""PIDiffSaveCodes, PIDiffLoadCodes and PIDiffListCodes: W+ codes as files."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..pidiff_core.catalogue import describe_codes, listing
from ..pidiff_core.codes import SUFFIXES, load_codes, save_codes
from ..pidiff_core.errors import PIDiffError
from .folders import input_file, list_input_files
from .wires import PidiffModel, PidiffWPlus, schema


class SaveCodes(io.ComfyNode):
    """Keeps a person for later: one small safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffSaveCodes",
            display_name="PIDiff Save Codes",
            category="PIDiff",
            description="Saves W+ codes into the output folder, with their space and where they came from.",
            search_aliases=["save face", "save identity"],
            is_output_node=True,
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="The codes to save, a batch in one file."),
                io.String.Input(
                    "filename_prefix",
                    default="pidiff/person",
                    tooltip="Folder and name below the output folder; a number is added, nothing is overwritten.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, wplus: Any, filename_prefix: str) -> io.NodeOutput:
        """See `pidiff_core.codes.save_codes`."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.safetensors"
        save_codes(Path(folder) / file, wplus)
        return io.NodeOutput(ui={"pidiff_codes": [{"filename": file, "subfolder": subfolder, "type": "output"}]})


class LoadCodes(io.ComfyNode):
    """Brings a saved person back, also one that other tools have saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLoadCodes",
            display_name="PIDiff Load Codes",
            category="PIDiff",
            description="Loads W+ codes: PIDiff's own files, or the .pt, .pth and .npy arrays of other tools.",
            search_aliases=["load face", "load identity", "W+ codes"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_input_files(SUFFIXES),
                    tooltip="A file of the input folder, or one that PIDiff Save Codes has written.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["absolute", "offset"],
                    default="absolute",
                    optional=True,
                    tooltip="Only for other tools' files: full codes, or differences to the generator's average code.",
                ),
                PidiffModel.Input(
                    "pidiff_model",
                    optional=True,
                    tooltip="The model that the codes belong to; other tools' files do not say it themselves.",
                ),
            ],
            outputs=[PidiffWPlus.Output("wplus", display_name="wplus", tooltip="The loaded codes.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Checked here, not against the list that was made when ComfyUI started."""
        if file is None:  # linked: known only when it runs
            return True
        try:
            input_file(file)
        except PIDiffError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_others: Any) -> tuple[str, int, int]:
        """Load again when the file has changed."""
        if file is None:  # linked: known only when it runs
            return "", 0, 0
        status = input_file(file).stat()
        return file, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, file: str, kind: str = "absolute", pidiff_model: Any = None) -> io.NodeOutput:
        """See `pidiff_core.codes.load_codes`."""
        space, average = (pidiff_model.space, pidiff_model.latent_avg) if pidiff_model is not None else (None, None)
        codes = load_codes(input_file(file), space=space, latent_avg=average, are_offsets=kind == "offset")
        return io.NodeOutput(codes)


class ListCodes(io.ComfyNode):
    """The saved people, as a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffListCodes",
            display_name="PIDiff List Codes",
            category="PIDiff",
            description="Lists the saved people: name, W+ space, how many, what they were read from, when.",
            search_aliases=["list faces", "saved identities"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "pattern",
                    default="",
                    tooltip="Which files: a folder such as pidiff, or a pattern such as 'pidiff/anna*'. Empty: all.",
                ),
                PidiffModel.Input(
                    "pidiff_model", optional=True, tooltip="Only the people whom this model understands."
                ),
            ],
            outputs=[
                io.String.Output("listing", display_name="listing", tooltip="A block of lines for each file."),
                io.String.Output("names", display_name="names", tooltip="The files' names, one a line."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, pattern: str | None = "", **_others: Any) -> tuple[tuple[str, int, int], ...]:
        """List again when a file has come, gone or changed."""
        statuses = [(name, path.stat()) for name, path in _own_files(pattern or "")]
        return tuple((name, status.st_mtime_ns, status.st_size) for name, status in statuses)

    @classmethod
    def execute(cls, pattern: str = "", pidiff_model: Any = None) -> io.NodeOutput:
        """See `pidiff_core.catalogue`."""
        described = (describe_codes(path, name=name) for name, path in _own_files(pattern))
        files = [file for file in described if file is not None]
        if pidiff_model is not None:
            files = [file for file in files if file.space == pidiff_model.space]
        text = listing(files) or "No saved people here."
        return io.NodeOutput(text, "\n".join(file.name for file in files), ui=ui.PreviewText(text))


def _own_files(pattern: str) -> list[tuple[str, Path]]:
    """Files that PIDiffSaveCodes may have written: names as PIDiffLoadCodes takes them, and their paths."""
    wanted = pattern.strip().rstrip("/")
    found = []
    for name in list_input_files((".safetensors",)):
        plain = folder_paths.annotated_filepath(name)[0].strip()
        if not wanted or fnmatchcase(plain, wanted) or plain.startswith(f"{wanted}/"):
            with suppress(PIDiffError):  # a link that leads out of the folder
                found.append((name, input_file(name)))
    return found
