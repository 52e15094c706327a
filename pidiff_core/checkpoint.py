"""Checkpoints: our own (one safetensors file with its configuration inside) and other people's pickles, read safely."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import PIDiffError
from .mapped import MappedFiles

_Network = TypeVar("_Network", bound=nn.Module)

METADATA_KEY = "pidiff"
_LISTED_KEYS = 8  # keys named in an error; the rest are counted
_KEY_CHARACTERS, _LINE_CHARACTERS = 80, 120  # of a key, and of another library's message, in an error
_BOMB_RATIO = 4  # a PyTorch archive is stored, not compressed: anything that unpacks to more than this is no checkpoint
_BOMB_FLOOR = 64 << 20  # bytes that any file may unpack to: a small one may repeat a code for every style
_MAX_OBJECTS, _MAX_DEPTH = 1_000_000, 32  # of a pickle; the largest published files have 2,000 objects, 5 deep


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write one safetensors file: the tensors, and the configuration as JSON under the metadata key "pidiff".

    The file is written beside its target and renamed, so that nobody ever reads half a file.
    """
    path = Path(path)
    metadata = {METADATA_KEY: json.dumps(config, ensure_ascii=False, sort_keys=True)}
    # Clones: safetensors refuses tensors that share memory, and views would drag their whole storage along.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode & 0o777  # what the user's umask allows; safetensors would write 0600
            save_file(owned, temporary, metadata=metadata)
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise PIDiffError(f"Cannot write {path} ({error}). Check the folder and the free space.") from error


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: (tensors on the CPU, configuration).

    Raises:
        PIDiffError: missing, empty, a directory, damaged, or a safetensors file of another project.
    """
    tensors, metadata = load_safetensors(path)
    if METADATA_KEY not in metadata:
        raise PIDiffError(
            f"{path} is a safetensors file, but not one of PIDiff's: its metadata have no '{METADATA_KEY}' entry "
            f"(its first keys are {listed(sorted(tensors))}). Give a file that PIDiff has written."
        )
    try:
        config = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise PIDiffError(f"The configuration inside {path} cannot be read: {error}. Save it again.") from error
    if not isinstance(config, dict):
        raise PIDiffError(f"The configuration inside {path} is no JSON object but a {type(config).__name__}.")
    return tensors, config


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read any safetensors file: (tensors on the CPU, its metadata)."""
    path = _existing_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            return {name: file.get_tensor(name) for name in keys}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise PIDiffError(
            f"{path} is not a whole safetensors file ({error}){_what_it_is(path)}. Download or save it again."
        ) from error


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a .pt, .pth or .bin file with `weights_only=True`, the one way in which a pickle cannot run code.

    `argparse.Namespace` is let through as well: some e4e exports keep their training options in one.

    Raises:
        PIDiffError: missing, empty, a directory, truncated, not a pickle, a zip bomb, or one that wants to run code.
    """
    path = _existing_file(path)
    _refuse_zip_bomb(path)
    with path.open("rb") as file:
        if not file.read(4).startswith((b"PK\x03\x04", b"\x80")):  # an archive of PyTorch's, or a bare pickle
            raise PIDiffError(f"{path} is not a PyTorch checkpoint{_what_it_is(path)}. Download it again.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Memory-mapped: of a file with more networks than are wanted, only those are ever read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"(?:GLOBAL|class|call) ([\w.]+)", str(error))  # torch's text goes on with bad advice
        raise PIDiffError(
            f"{path} was refused: it holds objects other than tensors, which can run code when they are opened"
            f"{f' ({forbidden[1]})' if forbidden else ''}. Nothing in it was executed. "
            "Use a file from its authors' own release page."
        ) from error
    except MemoryError as error:
        raise PIDiffError(f"{path} asks for more memory than there is; it is no usable checkpoint.") from error
    except Exception as error:  # torch's readers raise nearly every built-in kind on damaged files
        raise PIDiffError(
            f"{path} is damaged or cut short ({type(error).__name__}: {_first_line(error)}). "
            "Download it again from its release page and compare the size."
        ) from error
    _refuse_unpacked_bomb(content, path)
    return content


def file_kind(path: str | os.PathLike[str]) -> str:
    """What a file is by its first bytes, never by its name: "npy", "safetensors", or "pickle" (also where unknown)."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"\x93NUMPY"):
            return "npy"
        if head[8:9] == b"{":  # a length of eight bytes, then JSON
            return "safetensors"
    return "pickle"  # its reader finds the words for what is missing, empty or a folder


def load_array(path: str | os.PathLike[str]) -> Tensor:
    """Read a .npy array of integers or real numbers as a float32 tensor; nothing else that numpy can hold is let in."""
    path = _existing_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header's promises take no memory
        if array.dtype.kind in "fiu":
            return torch.from_numpy(np.array(array, dtype=np.float32))
    except Exception as error:  # numpy's reader raises nearly every built-in kind on damaged headers
        raise PIDiffError(f"{path} is no .npy array of numbers, or it is cut short ({_first_line(error)}).") from error
    raise PIDiffError(f"{path} is no .npy array of integers or real numbers: its type is {array.dtype}.")


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, name: str, read_numbers: bool = True) -> None:
    """Load weights into a module; every key must be used and every parameter filled, shapes included.

    A module on the meta device takes the tensors themselves (no second copy in memory).

    Args:
        module: what to fill.
        state: its weights by key.
        name: what the error calls it.
        read_numbers: check that they are finite. False leaves memory-mapped weights unread, for `settle`.

    Raises:
        PIDiffError: lists the keys that are missing, left over, of a wrong shape or type, or hold no finite numbers.
    """
    own = module.state_dict()
    problems = []
    if missing := [key for key in own if key not in state]:
        problems.append(f"missing: {listed(missing)}")
    if left_over := [key for key in state if key not in own]:
        problems.append(f"left over: {listed(left_over)}")
    tensors = {key: tensor for key, tensor in state.items() if key in own}
    if not_tensors := [key for key, value in tensors.items() if not isinstance(value, Tensor)]:
        problems.append(f"not tensors: {listed(not_tensors)}")
        tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    wrong = [
        f"{key} {tuple(tensor.shape)} instead of {tuple(own[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != own[key].shape
    ]
    if wrong:
        problems.append(f"wrong shapes: {listed(wrong)}")
    wrong_types = [
        f"{key} {tensor.dtype} instead of {own[key].dtype}"
        for key, tensor in tensors.items()
        if tensor.is_floating_point() != own[key].is_floating_point() and not key.endswith("num_batches_tracked")
    ]
    if wrong_types:
        problems.append(f"wrong types: {listed(wrong_types)}")
    if read_numbers and not wrong:  # a tensor of another shape may be a view of any size
        floats = {key: value for key, value in tensors.items() if value.is_floating_point()}
        if not_finite := [key for key, value in floats.items() if not all_finite(value)]:
            problems.append(f"not finite: {listed(not_finite)}")
    if problems:
        raise PIDiffError(f"The weights do not fit {name}: {'; '.join(problems)}. Is this the right file?")
    on_meta = any(tensor.is_meta for tensor in own.values())
    module.load_state_dict(dict(state), strict=True, assign=on_meta)


def settle(network: _Network, *, dtype: torch.dtype = torch.float32, name: str) -> _Network:
    """Read a network's weights out of the mapped file that they lie in, and make it ready for inference.

    Args:
        network: as `load_strict` left it. It is changed in place: evaluation mode, no gradients, memory of its own.
        dtype: what its floating-point weights become.
        name: what the error calls it.

    Raises:
        PIDiffError: weights that are not finite, or not in `dtype`.
    """
    files = MappedFiles()

    def copied(tensor: Tensor) -> tuple[Tensor, bool]:
        own = tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        files.release(tensor)
        return own, all_finite(own)

    broken = []
    state = network.state_dict(keep_vars=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch copies with one thread, and most of it is waiting
        for (key, tensor), (own, is_finite) in zip(state.items(), pool.map(copied, state.values())):
            tensor.data = own
            if not is_finite:
                broken.append(key)
    if broken:
        half = " (half precision holds no number above 65504: choose fp32)" if dtype == torch.float16 else ""
        raise PIDiffError(f"The weights of {name} are not finite: {listed(broken)}{half}. Is this the right file?")
    return network.to(dtype).eval().requires_grad_(False)  # `to`: buffers that no file holds


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose key starts with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def listed(keys: Iterable[Any]) -> str:
    """The first keys for an error, none of them at length, and how many more there are."""
    keys = [str(key) for key in keys]
    shown = ", ".join(
        key if len(key) <= _KEY_CHARACTERS else key[:_KEY_CHARACTERS] + "..." for key in keys[:_LISTED_KEYS]
    )
    return shown + (f" and {len(keys) - _LISTED_KEYS} more" if len(keys) > _LISTED_KEYS else "")


def all_finite(tensor: Tensor) -> bool:
    """A sum is quicker than a mask of the tensor's size, and only an overflow can make it infinite without cause."""
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise PIDiffError(f"{path} is a folder, not a file. Give the path of the checkpoint inside it.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PIDiffError(f"Cannot read {path}: {error.strerror or error}. Check the path.") from error
    if size == 0:
        raise PIDiffError(f"{path} is an empty file. Download it again.")
    return path


def _refuse_zip_bomb(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return  # torch.load says what is wrong with it
    if unpacked > _BOMB_RATIO * path.stat().st_size:
        raise PIDiffError(
            f"{path} was refused: its {path.stat().st_size} bytes unpack to {unpacked}, as in no PyTorch checkpoint."
        )


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
                raise PIDiffError(  # a sparse one with wrong indices would end the process where it is used
                    f"{path} was refused: it holds a tensor that is no plain array of numbers ({value.type()}), as in "
                    "no published checkpoint. Use a file from its authors' own release page."
                )
        elif isinstance(value, Mapping):
            inside = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inside = value
        elif isinstance(value, argparse.Namespace):
            inside = vars(value).values()
        pending += [(part, depth + 1) for part in inside]
        if objects + len(pending) > _MAX_OBJECTS or depth > _MAX_DEPTH or unpacked > allowed:
            raise PIDiffError(
                f"{path} was refused: its {path.stat().st_size} bytes unpack to more than any checkpoint of that size "
                "holds. Use a file from its authors' own release page."
            )


def _what_it_is(path: Path) -> str:
    """A guess for the commonest mistake, a web page saved in place of the file; empty where there is none."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ", but a web page that was saved under that name"
    if head.startswith(b"version https://git-lfs"):
        return ", but a Git LFS pointer (the file itself was not downloaded)"
    return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= _LINE_CHARACTERS else text[:_LINE_CHARACTERS] + "..."
