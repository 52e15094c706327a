"""Other people's pickles (.pt, .pth, .bin), read so that they can run no code, take no memory, and never end."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import PIDiffError, check_interrupted, first_line, passes_through
from .cache import check_once
from .pickle_scan import Damaged, Refused, scan_pickle
from .recognise import existing_file, mistaken_for

_BOMB_RATIO = 4  # a PyTorch archive is stored, not compressed: what unpacks to more than this is not a checkpoint
_BOMB_FLOOR = 64 << 20  # bytes that any file may unpack to: a small one may repeat a code for every style
_MOST_OBJECTS, _MOST_DEPTH = 1_000_000, 32  # of a pickle; the largest published files have 2,000 objects, 5 deep
_MOST_OPCODE_BYTES = 64 << 20  # of an archive's data.pkl; the largest published one has 0.3 MB
_MOST_ENTRIES = 100_000  # of an archive
_LEGACY_PICKLES = 5  # magic number, version, sizes of types, content, keys of the storages; the numbers follow


def load_pickle(path: str | os.PathLike[str], *, only_shapes: bool = False) -> Any:
    """Read a file of `torch.save` with `weights_only=True`, after its opcodes have been checked (see `pickle_scan`).

    `argparse.Namespace` is let through as well: some e4e exports keep their training options in one.

    Args:
        path: the file.
        only_shapes: the tensors are for their shapes: in an archive, their numbers are not read, and take no memory
            until they are. Do not keep them: a file that changes behind such a tensor can end the process.

    Raises:
        PIDiffError: missing, empty, a folder, truncated, not a pickle, too large for its size, or one that asks for
            anything but tensors in plain containers.
    """
    path = existing_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
            is_archive = head.startswith(b"PK\x03\x04")
            if not is_archive and not head.startswith(b"\x80"):
                raise PIDiffError(f"{path} is not a PyTorch checkpoint{mistaken_for(path)}. Download it again.")
            check_once(path, file, "opcodes", lambda: (_scan_archive if is_archive else _scan_legacy)(file))
            file.seek(0)
            with torch.serialization.safe_globals([argparse.Namespace]):
                mapped = only_shapes and is_archive and _is_unicode(path)
                content = torch.load(
                    path if mapped else file, map_location=_on_the_cpu, weights_only=True, mmap=mapped or None
                )
    except PIDiffError:
        raise
    except Refused as error:
        raise PIDiffError(f"{path} was refused: it {error}. Use a file from its authors' own release page.") from error
    except pickle.UnpicklingError as error:
        raise PIDiffError(
            f"{path} was refused: it holds objects other than tensors, which can run code when they are opened. "
            "Nothing in it was executed. Use a file from its authors' own release page."
        ) from error
    except Exception as error:  # torch's readers raise nearly every built-in kind on damaged files
        if passes_through(error):
            raise
        raise PIDiffError(
            f"{path} is damaged or cut short ({type(error).__name__}: {first_line(error)}). "
            "Download it again from its release page and compare the size."
        ) from error
    _refuse_unpacked_bomb(content, path)
    return content


def _on_the_cpu(storage: Any, _: str) -> Any:
    """Where torch puts each piece of a file; between two of them it is asked whether the user has cancelled."""
    check_interrupted()
    return storage


def _is_unicode(path: Path) -> bool:
    """torch maps files by their UTF-8 name alone."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _scan_archive(file: BinaryIO) -> None:
    """Refused or Damaged for an archive that should not be opened."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.casefold() for entry in entries}
        if len(entries) > _MOST_ENTRIES or len(names) < len(entries):
            raise Refused("holds too many parts, or one part twice")
        if any(entry.compress_size > size for entry in entries):  # zipfile would take memory for all of it
            raise Damaged("a part of it is longer than the file")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > _BOMB_RATIO * size:
            raise Refused(f"has {size} bytes that unpack to {unpacked}, as in no PyTorch checkpoint")
        pickles = [entry for entry in entries if entry.filename.casefold().endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Damaged(f"it holds {len(pickles)} parts named data.pkl, expected one")
        if pickles[0].file_size > _MOST_OPCODE_BYTES:
            raise Refused(f"has {pickles[0].file_size} bytes of instructions, more than any checkpoint")
        scan_pickle(io.BytesIO(archive.read(pickles[0])), most_bytes=unpacked)


def _scan_legacy(file: BinaryIO) -> None:
    file.seek(0)
    most_bytes = os.fstat(file.fileno()).st_size
    for _ in range(_LEGACY_PICKLES):
        scan_pickle(file, most_bytes=most_bytes)


def _refuse_unpacked_bomb(content: Any, path: Path) -> None:
    """PIDiffError for a small file of (views of) enormous tensors, for containers without end, for odd tensors."""
    allowed = max(_BOMB_RATIO * path.stat().st_size, _BOMB_FLOOR)
    objects = unpacked = 0
    pending = [(content, 0)]
    while pending:
        value, depth = pending.pop()
        objects += 1
        inside: Iterable[Any] = ()
        if isinstance(value, Tensor):
            unpacked += value.numel() * value.element_size()
            if value.layout is not torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
                raise PIDiffError(  # a sparse one with wrong indices would crash the process when it is used
                    f"{path} was refused: it holds a tensor that is not a plain array of numbers ({value.type()}), as "
                    "in no published checkpoint. Use a file from its authors' own release page."
                )
        elif isinstance(value, Mapping):
            inside = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inside = value
        elif isinstance(value, argparse.Namespace):
            inside = vars(value).values()
        pending += [(part, depth + 1) for part in inside]
        if objects + len(pending) > _MOST_OBJECTS or depth > _MOST_DEPTH or unpacked > allowed:
            raise PIDiffError(
                f"{path} was refused: its {path.stat().st_size} bytes unpack to more than any checkpoint of that size "
                "holds. Use a file from its authors' own release page."
            )
