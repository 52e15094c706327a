"""Where the user's files are: ComfyUI's models/pidiff, its input folder and its output folder.

One rule for every look-up: the file that is found, links followed, is inside one of the folders that were searched.
Names are compared with either separator and with accents composed, because workflows travel between systems.
"""

from __future__ import annotations

import contextlib
import os
import time
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ...pidiff_core.errors import PIDiffError, explained, first_line, quoted
from ...pidiff_core.files.cache import FileIdentity, file_identity
from ...pidiff_core.files.whole_files import remove_if_dead
from ...pidiff_core.wplus.code_files import SUFFIXES as CODE_SUFFIXES

KEY = "pidiff"
PUBLISHED_LINK = "https://github.com/csxmli2016/w-plus-adapter/releases/tag/v1"  # wplus_adapter.bin, e4e_ffhq_encode.pt
_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".npy", ".csv"}
_SETTLED_S = 3.0  # file systems note a folder's changes in steps of up to 2 s: a younger listing is made again


def register() -> None:
    """Register models/pidiff with ComfyUI, in addition to the folders in extra_model_paths.yaml."""
    folder = Path(folder_paths.models_dir) / KEY
    with contextlib.suppress(OSError):  # read-only installation: the user has to create the folder
        folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(KEY, str(folder))
    # ComfyUI registers a new folder with an empty set of suffixes, and would then list no file.
    paths, suffixes = folder_paths.folder_names_and_paths[KEY]
    folder_paths.folder_names_and_paths[KEY] = (paths, set(suffixes) | _SUFFIXES)


def pidiff_folders() -> list[str]:
    """The folders of the user's PIDiff files, as registered with ComfyUI (extra_model_paths.yaml included)."""
    return list(folder_paths.get_folder_paths(KEY)) if KEY in folder_paths.folder_names_and_paths else []


def list_pidiff_files(suffixes: Sequence[str]) -> list[str]:
    """Names of the files in models/pidiff with one of these suffixes, relative to their folder."""
    if not pidiff_folders():
        return []
    names = folder_paths.get_filename_list(KEY)
    return [name for name in names if name.lower().endswith(tuple(suffixes)) and _is_text(name)]


def find_pidiff_file(name: str) -> str | None:
    """The path of a file in models/pidiff by its relative name, or its last part alone; None if it is not there.

    Raises:
        PIDiffError: it links to a file outside the folders, or the name is no text.
    """
    _check_name(name)
    if not pidiff_folders():
        return None
    wanted = _canonical(name)
    names = folder_paths.get_filename_list(KEY)
    found = (
        [entry for entry in names if entry == name]
        or [entry for entry in names if _canonical(entry) == wanted]
        or [entry for entry in names if _canonical(entry).rpartition("/")[2] == wanted]
    )
    path = folder_paths.get_full_path(KEY, found[0]) if found else None
    if path is None:
        return None
    return str(_inside(Path(path), [Path(folder) for folder in pidiff_folders()], name=f"The file {quoted(name)}"))


def model_file(name: str, *, what: str) -> Path:
    """The path of a file in models/pidiff.

    Raises:
        PIDiffError: it does not exist, it is a folder, or it is outside its folder.
    """
    path = find_pidiff_file(name)
    if path is not None:
        return Path(path)
    searched = ", ".join(pidiff_folders()) or "no folder"
    for folder in pidiff_folders():
        with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL in the name
            here = Path(folder).resolve()
            if (here / name).is_dir() and (here / name).resolve().is_relative_to(here):
                raise PIDiffError(
                    f"The {what} {quoted(name)} is a folder, not a file (in {searched}). Choose a file inside it."
                )
    raise PIDiffError(
        f"The {what} {quoted(name)} was not found (searched: {searched}). Copy it there and press R. "
        f"The published files are at {PUBLISHED_LINK}; the help page of Load PIDiff Model lists every file."
    )


def identities(names: Sequence[str]) -> list[tuple[str, FileIdentity]]:
    """What changes when one of these files in models/pidiff changes: for ComfyUI's cache."""
    found = []
    for name in names:
        with contextlib.suppress(PIDiffError):  # what cannot be read is an error when the node runs
            if (path := find_pidiff_file(name)) is not None:
                found.append((name, file_identity(path)))
    return found


def directions_place(name: str) -> tuple[Path, str]:
    """Where a new file of directions goes: (folder in models/pidiff, name without suffix).

    Raises:
        PIDiffError: no folder, an empty name, or one that leads out of the folder.
    """
    folders = pidiff_folders()
    inner, _, plain = _canonical(name.strip()).rpartition("/")
    if not folders or not plain.strip(". "):
        raise PIDiffError(f"Directions cannot be saved as {quoted(name)} in models/pidiff. Use a name such as smile.")
    root = Path(folders[0])
    with contextlib.suppress(OSError, ValueError):  # names that no file can have
        return _inside(root / inner, [root], name=f"The folder of {quoted(name)}"), plain
    raise PIDiffError(f"Directions cannot be saved as {quoted(name)} in {root}. Use a name such as smile.")


def list_input_files(suffixes: Sequence[str]) -> list[str]:
    """Files of codes in the input and output folder; those of the latter carry ComfyUI's mark " [output]"."""
    names = []
    for folder, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        found = sorted(name for name in _code_files(Path(folder)) if name.lower().endswith(tuple(suffixes)))
        names += [name + mark for name in found if _is_text(name)]
    return names


def input_file(name: str) -> Path:
    """The path of one of `list_input_files`.

    Raises:
        PIDiffError: it does not exist, or it is outside its folder.
    """
    _check_name(name)
    # Not get_annotated_filepath: newer hosts refuse a path outside with another error.
    plain, folder = folder_paths.annotated_filepath(name)
    root = Path(folder or folder_paths.get_input_directory())
    plain = plain.strip() if folder else plain
    for candidate in (plain, plain.replace("\\", "/")):
        with contextlib.suppress(OSError, ValueError):  # names that no file can have
            real = _inside(root / candidate, [root], name=f"The file {quoted(plain)}")
            if real.is_file():
                return real
    wanted = _canonical(plain)
    for entry in _code_files(root):
        if _canonical(entry) == wanted:
            return _inside(root / entry, [root], name=f"The file {quoted(plain)}")
    raise PIDiffError(f"The file {quoted(plain)} was not found in {root}. Copy it there, or choose another file.")


def matches(name: str, pattern: str) -> bool:
    """Whether a listed name is this folder's or fits this pattern with `*`, separators and accents either way."""
    plain = _canonical(folder_paths.annotated_filepath(name)[0].strip())
    wanted = _canonical(pattern.strip()).rstrip("/")
    return not wanted or fnmatchcase(plain, wanted) or plain.startswith(f"{wanted}/")


def output_place(prefix: str) -> tuple[Path, str, str, int]:
    """Where files of this prefix go: (folder, name, subfolder as ComfyUI reports it, first number that may be free).

    Raises:
        PIDiffError: a prefix that leads out of the output folder, or that no file can have.
    """
    prefix = prefix.strip().replace("\\", "/").rstrip("/")
    root = Path(folder_paths.get_output_directory())
    with explained(  # the host raises a bare Exception for a prefix that leads out
        lambda error: (
            f"Codes cannot be saved as {quoted(prefix)} below the output folder {root} "
            f"({first_line(error)}). Use a name such as pidiff/person."
        )
    ):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix or "person", str(root))
    real = _inside(Path(folder), [root], name=f"The folder of {quoted(prefix)}")
    return real, name, subfolder, counter


def _inside(path: Path, folders: Sequence[Path], *, name: str) -> Path:
    """The path with links followed, if it is inside one of the folders."""
    real = path.resolve()
    if any(real.is_relative_to(folder.resolve()) for folder in folders):
        return real
    raise PIDiffError(
        f"{name} is outside the folder {', '.join(map(str, folders))}, which is not allowed. Copy the file into it. "
        "For models, you can also add the file's folder under 'pidiff' in extra_model_paths.yaml."
    )


def _check_name(name: object) -> None:
    """ComfyUI hands a program's value to the validation before the node runs, whatever it is."""
    if not isinstance(name, str):
        raise PIDiffError(f"The name of a file should be a text, but it is {quoted(name)}. Choose a file of the list.")


def _canonical(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _is_text(name: str) -> bool:
    """Whether a name can be shown: not if its bytes are of an unknown encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Listing(NamedTuple):
    """What one folder held when it was last read."""

    changed_ns: int
    is_settled: bool  # False: it may have changed since without another time
    files: list[str]  # of codes alone: a folder may hold 100,000 pictures
    folders: list[str]


_listings: dict[Path, _Listing] = {}


def _code_files(root: Path) -> Iterator[str]:
    """Names of all files that may hold codes below a folder; a folder is read again only after it has changed."""
    pending = [""]
    while pending:
        inner = pending.pop()
        listing = _listing(root / inner)
        yield from (f"{inner}{name}" for name in listing.files)
        pending += [f"{inner}{name}/" for name in listing.folders]


def _listing(folder: Path) -> _Listing:
    try:
        changed_ns = folder.stat().st_mtime_ns
    except OSError:  # it is gone, or it belongs to another user
        _listings.pop(folder, None)
        return _Listing(0, False, [], [])
    known = _listings.get(folder)
    if known is not None and known.is_settled and known.changed_ns == changed_ns:
        return known
    files, folders = [], []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".pidiff-"):
                remove_if_dead(folder / entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.name.lower().endswith(CODE_SUFFIXES) and entry.is_file():
                files.append(entry.name)
    is_settled = time.time() - changed_ns / 1e9 > _SETTLED_S
    _listings[folder] = _Listing(changed_ns, is_settled, files, folders)
    return _listings[folder]
