"""Where the user's files lie: ComfyUI's models/pidiff, its input folder and its output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..pidiff_core.errors import PIDiffError

KEY = "pidiff"
PUBLISHED_LINK = "https://github.com/csxmli2016/w-plus-adapter/releases/tag/v1"  # wplus_adapter.bin, e4e_ffhq_encode.pt
_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".npy", ".csv"}


def register() -> None:
    """Make models/pidiff known to ComfyUI, beside what extra_model_paths.yaml names for it."""
    folder = Path(folder_paths.models_dir) / KEY
    with contextlib.suppress(OSError):  # a read-only installation: the folder is the user's to make
        folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(KEY, str(folder))
    # ComfyUI registers a new folder with an empty set of suffixes, and a user's yaml likewise: then nothing is listed.
    paths, suffixes = folder_paths.folder_names_and_paths[KEY]
    folder_paths.folder_names_and_paths[KEY] = (paths, set(suffixes) | _SUFFIXES)


def pidiff_folders() -> list[str]:
    """The folders of the user's PIDiff files, as registered with ComfyUI (extra_model_paths.yaml included)."""
    return list(folder_paths.get_folder_paths(KEY)) if KEY in folder_paths.folder_names_and_paths else []


def list_pidiff_files(suffixes: Sequence[str]) -> list[str]:
    """Names of the files in models/pidiff that end so, relative to their folder."""
    if not pidiff_folders():
        return []
    return [name for name in folder_paths.get_filename_list(KEY) if name.lower().endswith(tuple(suffixes))]


def find_pidiff_file(name: str) -> str | None:
    """The path of a file in models/pidiff by its relative name, or its last part alone; None where it is not there."""
    listed = list_pidiff_files([Path(name).suffix.lower()])
    found = [entry for entry in listed if entry == name] or [entry for entry in listed if Path(entry).name == name]
    return folder_paths.get_full_path(KEY, found[0]) if found else None


def list_input_files(suffixes: Sequence[str]) -> list[str]:
    """Files of the input and the output folder that end so; those of the latter carry ComfyUI's mark " [output]"."""
    names = []
    for folder, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        root = Path(folder)
        found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        names += sorted(path.relative_to(root).as_posix() + mark for path in found)
    return names


def input_file(name: str) -> Path:
    """The path of one of `list_input_files`; PIDiffError where it is missing or leads out of its folder."""
    # Not get_annotated_filepath: newer hosts refuse a path that leads out with an error of their own.
    plain, folder = folder_paths.annotated_filepath(name)
    root = Path(folder or folder_paths.get_input_directory()).resolve()
    real = (root / plain).resolve()
    if not real.is_relative_to(root):
        raise PIDiffError(
            f"{plain} leads out of the folder {root}, which is not allowed. Copy the file itself into it."
        )
    if not real.is_file():
        raise PIDiffError(f"{plain} is not in the folder {root}. Put it there, or choose another file.")
    return real


def model_file(name: str, *, what: str) -> Path:
    """The path of a file in models/pidiff.

    Raises:
        PIDiffError: it is not there, it is a folder, or it leads out of its folder.
    """
    folders = [Path(folder).resolve() for folder in pidiff_folders()]
    path = find_pidiff_file(name)
    if path is None:
        searched = ", ".join(pidiff_folders()) or "no folder"
        if any((folder / name).is_dir() and (folder / name).resolve().is_relative_to(folder) for folder in folders):
            raise PIDiffError(f"The {what} '{name}' is a folder, not a file (in {searched}). Choose a file inside it.")
        raise PIDiffError(
            f"The {what} '{name}' was not found (searched: {searched}). Put it there and refresh the page. "
            f"The published files are at {PUBLISHED_LINK}; the help page of LoadPIDiff lists every file with its link."
        )
    real = Path(path).resolve()
    if not any(real.is_relative_to(folder) for folder in folders):
        raise PIDiffError(
            f"The {what} '{name}' leads out of the folder models/pidiff, which is not allowed. Copy the file into it, "
            "or name the folder that it lies in under 'pidiff' in extra_model_paths.yaml."
        )
    return real
