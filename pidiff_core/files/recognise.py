"""What a file is: told from its first bytes, never from its name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Literal

from ..errors import PIDiffError

FileKind = Literal["npy", "npz", "safetensors", "pickle"]


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there and not empty.

    Raises:
        PIDiffError: missing, a folder, empty, or a name that no file can have.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise PIDiffError(f"{path} is a folder, not a file. Give the path of the checkpoint inside it.")
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PIDiffError(
            f"Cannot read {path}: {getattr(error, 'strerror', None) or error}. Check the path."
        ) from error
    if size == 0:
        raise PIDiffError(f"{path} is an empty file. Download it again.")
    return path


def file_kind(path: str | os.PathLike[str]) -> FileKind:
    """The kind of a file, told from its content; "pickle" also if it is unknown, because that reader explains why."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"\x93NUMPY"):
            return "npy"
        if head[8:9] == b"{":  # a length of eight bytes, then JSON
            return "safetensors"
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if names and all(name.endswith(".npy") for name in names):
                return "npz"
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        pass
    return "pickle"


def mistaken_for(path: Path) -> str:
    """The most frequent mistakes, as the end of a sentence: a web page or a Git LFS pointer saved as the file."""
    try:
        with path.open("rb") as file:
            head = file.read(512).lstrip().lower()
    except OSError:
        return ""
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ", but a web page that was saved under that name"
    if head.startswith(b"version https://git-lfs"):
        return ", but a Git LFS pointer (the file itself was not downloaded)"
    return ""
