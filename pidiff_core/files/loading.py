"""A PIDiffModel from the user's files: what LoadPIDiff does. A file that is open already is not opened again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import PIDiffError, explained, printable
from ..model import PIDiffModel
from .adapters import AdapterFile, load_adapter
from .cache import shared_file
from .container import METADATA_KEY
from .foreign.wplus_adapter import open_wplus_adapter, read_wplus_adapter
from .lazy import Place, no_device_management
from .networks import open_networks
from .pickles import load_pickle
from .recognise import file_kind
from .safetensors import SafetensorsFile

_T = TypeVar("_T")


def load_any_adapter(path: Path) -> AdapterFile:
    """A PIDiff adapter or a published W+ Adapter; the content decides.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    if file_kind(path) != "safetensors":
        return read_wplus_adapter(load_pickle(path), name=path.name)
    file = SafetensorsFile(path)
    if METADATA_KEY in file.metadata:
        return load_adapter(path)
    return open_wplus_adapter(file, name=path.name)


def load_pidiff(
    *,
    adapter: Path | None,
    encoder: Path | None,
    dtype: torch.dtype = torch.float32,
    place: Place = no_device_management,
) -> PIDiffModel:
    """Adapter, encoder, or both. The adapter is read; of the encoder's file only what it holds, not the weights.

    Args:
        adapter: a PIDiff adapter or a W+ Adapter.
        encoder: an e4e checkpoint, a StyleGAN2 generator, or what `save_networks` wrote.
        dtype: data type of the encoder and the generator. The adapter is folded in float32, once.
        place: brings encoder and generator to their device: see `lazy.Place`. One for the whole process.

    Raises:
        PIDiffError: neither is given, the two belong to different W+ spaces, no file holds the average code, or a file
            is not valid.
    """
    if adapter is None and encoder is None:
        raise PIDiffError("Nothing to load: choose an adapter, an encoder, or both.")
    file = None
    if adapter is not None:
        file = guarded(adapter, lambda path: shared_file(path, "adapter", load_any_adapter))
    networks = None
    if encoder is not None:
        role = f"encoder {dtype}"
        networks = guarded(
            encoder, lambda path: shared_file(path, role, lambda path: open_networks(path, dtype=dtype, place=place))
        )
    if file is not None and networks is not None and file.space != networks.space:
        raise PIDiffError(
            f"The adapter reads codes of {file.space}, the encoder writes codes of {networks.space}. "
            "Choose an encoder of the adapter's own space."
        )
    source = " + ".join(path.name for path in (adapter, encoder) if path is not None)
    if networks is None:
        assert file is not None
        return PIDiffModel(
            space=file.space, latent_avg=_average(file), adapter=file.adapter, source=source, files=(file,)
        )
    return dataclasses.replace(
        networks, adapter=None if file is None else file.adapter, source=source, files=(file, networks)
    )


def guarded(path: Path, read: Callable[[Path], _T]) -> _T:
    """What `read` makes of a stranger's file; anything odd in it is a PIDiffError."""
    try:
        with explained(  # files come from strangers: no reader foresees all that a pickle can hold
            lambda error: (
                f"{path} is not a file that PIDiff can read ({type(error).__name__}). "
                "Use a file from its authors' own release page; the help page of LoadPIDiff lists them."
            )
        ):
            return read(path)
    except PIDiffError as error:
        if printable(path.name) in str(error):
            raise
        raise PIDiffError(f"The contents of {path} are not valid. {error}") from error


def _average(file: AdapterFile) -> Tensor | None:
    """W+ Adapter reads absolute codes and does not know the average; a PIDiff adapter's offsets count from it."""
    if file.latent_avg is None and file.adapter.config.format == "pidiff":
        raise PIDiffError(
            "The adapter's file does not hold the average code that its offsets count from. Choose the encoder too."
        )
    return file.latent_avg
