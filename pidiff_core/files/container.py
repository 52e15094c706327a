"""PIDiff's own container: one safetensors file, its configuration as JSON in the metadata under the key "pidiff".

The configuration names the kind of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import PIDiffError, listed, quoted
from .safetensors import SafetensorsFile
from .whole_files import write_whole

METADATA_KEY = "pidiff"
# kind: its description for users, and the input that it belongs to.
KINDS = {
    "adapter": ("an identity adapter", "Choose it as the adapter in Load PIDiff."),
    "networks": ("an encoder or a generator", "Choose it as the encoder in Load PIDiff."),
    "directions": ("directions of an edit", "Choose it in PIDiff Style Edit."),
    "codes": ("W+ codes", "Load it with PIDiff Load Codes."),
}
_ARCHITECTURES = (
    "space",
    "adapter",
    "encoder",
    "generator",
)  # parts of a configuration that sizes of networks come from
_LARGEST, _MOST_ENTRIES = 1 << 16, 1024  # of a number and of a list in them; the largest in use are 2048 and 140


def write_container(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any]
) -> None:
    """Write one file. An existing one is replaced once the new one is whole, so that half a file is never seen.

    Args:
        path: the file; its folder is made.
        tensors: by key, on any device.
        kind: what the file holds.
        config: plain JSON values.

    Raises:
        PIDiffError: the file cannot be written.
    """
    _write(path, tensors, kind=kind, config=config)


def write_new_container(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any]
) -> bool:
    """`write_container`, but only if there is no file of that name yet. Returns whether it was written.

    Several processes may ask for one name at the same time: exactly one of them gets it.
    """
    return _write(path, tensors, kind=kind, config=config, only_if_new=True)


def read_container(path: str | os.PathLike[str], *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_container` wrote as this kind: (tensors on the CPU in memory of their own, configuration).

    Raises:
        PIDiffError: missing, empty, a folder, damaged, a file of another kind or of another project.
    """
    file, config = open_container(path, kind=kind)
    return file.tensors(), config


def open_container(path: str | os.PathLike[str], *, kind: str) -> tuple[SafetensorsFile, dict[str, Any]]:
    """`read_container` without the tensors: they are read when they are asked for."""
    file = SafetensorsFile(path)
    if METADATA_KEY not in file.metadata:
        raise PIDiffError(
            f"{path} is a safetensors file, but not one of PIDiff's: its metadata have no '{METADATA_KEY}' entry "
            f"(its first keys are {listed(sorted(file.shapes()))}). Give a file that PIDiff has written."
        )
    try:
        config = json.loads(file.metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise PIDiffError(f"The configuration inside {path} cannot be read: {error}. Save it again.") from error
    if not isinstance(config, dict):
        raise PIDiffError(f"The configuration inside {path} is not a JSON object but a {type(config).__name__}.")
    found = config.get("kind")
    if found != kind:
        what, where = KINDS.get(found if isinstance(found, str) else "", (quoted(found), "Choose another file."))
        wanted, _ = KINDS.get(kind, (f"'{kind}'", ""))
        raise PIDiffError(f"{path} holds {what}, but {wanted} was expected here. {where}")
    for part in _ARCHITECTURES:
        _check_sizes(config.get(part), name=f"'{part}' in the configuration of {path}")
    return file, config


def _check_sizes(value: Any, *, name: str) -> None:
    """PIDiffError for numbers that no network has: building one of that size would freeze the process."""
    pending, seen = [value], 0
    while pending:
        value = pending.pop()
        seen += 1
        inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        number = isinstance(value, int | float)
        if (number and not abs(value) <= _LARGEST) or len(inside) > _MOST_ENTRIES or seen > 8 * _MOST_ENTRIES:
            found = f"{len(inside)} entries" if inside else f"the number {quoted(value)}"
            raise PIDiffError(
                f"{name} asks for {found}, expected at most {_LARGEST} and lists of at most {_MOST_ENTRIES}: "
                "the file is damaged. Download or save it again."
            )
        pending += inside


def _write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    config: Mapping[str, Any],
    only_if_new: bool = False,
) -> bool:
    # ASCII: text of users may hold what no encoder takes.
    metadata = {METADATA_KEY: json.dumps({**config, "kind": kind}, ensure_ascii=True, sort_keys=True)}
    # Clones: safetensors refuses tensors that share memory, and views would drag their whole storage along.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(owned, temporary, metadata=metadata)
        except SafetensorError as error:  # its name for a full disk
            raise OSError(str(error)) from error

    return write_whole(path, write, only_if_new=only_if_new)
