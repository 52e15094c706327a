"""A PIDiffModel from the user's files: what LoadPIDiff does. A file that is open already is not opened again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from .adapter.formats import AdapterFile, load_adapter
from .adapter.published import from_published
from .checkpoint import file_kind, load_pickle, settle
from .errors import PIDiffError
from .lazy import LazyNetwork, Place, stay
from .model import PIDiffModel
from .networks import open_networks
from .wplus import WPlusSpace

_T = TypeVar("_T")
_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def share(key: Hashable, make: Callable[[], _T]) -> _T:
    """What `make` makes, once for a key: everybody gets the same object for as long as anybody holds it."""
    made = _shared.get(key)
    if made is None:
        with torch.inference_mode(False):  # others may want gradients through the same weights
            made = _shared[key] = make()
    return made


def load_any_adapter(path: Path) -> AdapterFile:
    """A PIDiff adapter or a published W+ Adapter; the content decides.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    if file_kind(path) == "safetensors":
        return load_adapter(path)
    return from_published(load_pickle(path), name=path.name)


def load_pidiff(
    *, adapter: Path | None, encoder: Path | None, dtype: torch.dtype = torch.float32, place: Place = stay
) -> PIDiffModel:
    """Adapter, encoder, or both. The adapter is read; of the encoder's file only what it holds, not the weights.

    Args:
        adapter: a PIDiff adapter or a W+ Adapter.
        encoder: an e4e checkpoint, a StyleGAN2 generator, or what `save_networks` wrote.
        dtype: in what the encoder and the generator run. The adapter is folded in float32, once.
        place: brings encoder and generator to their device: see `lazy.Place`. One for the whole process.

    Raises:
        PIDiffError: neither is given, the two belong to different W+ spaces, nothing says what the average code is, or
            a file is not what it should be.
    """
    if adapter is None and encoder is None:
        raise PIDiffError("Nothing to load: choose an adapter, an encoder, or both.")
    file = None if adapter is None else _opened(adapter, "adapter", load_any_adapter)
    networks = None
    if encoder is not None:
        networks = _opened(encoder, f"encoder {dtype}", lambda path: _open_networks(path, dtype=dtype, place=place))
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
    return PIDiffModel(
        space=networks.space,
        latent_avg=networks.latent_avg,
        adapter=None if file is None else file.adapter,
        encoder=networks.encoder,
        generator=networks.generator,
        directions=networks.directions,
        crop_size=networks.crop_size,
        source=source,
        files=(file, networks),
    )


@dataclass(frozen=True, eq=False)
class _NetworksFile:
    """An open file of `networks`, its weights unread."""

    space: WPlusSpace
    latent_avg: Tensor
    encoder: LazyNetwork | None
    generator: LazyNetwork | None
    directions: Mapping[str, Tensor]
    crop_size: int  # px


def _open_networks(path: Path, *, dtype: torch.dtype, place: Place) -> _NetworksFile:
    mark = _mark(path)
    networks = open_networks(path)

    def read(part: str, network: nn.Module) -> nn.Module:
        # They lie in the mapped file: rewritten in place they are another's, cut short they would end the process.
        if _mark(path) != mark:
            raise PIDiffError(f"{path.name} has changed since LoadPIDiff opened it. Queue again.")
        return settle(network, dtype=dtype, name=f"the {part} in {path.name}")

    def lazy(part: str, network: nn.Module | None) -> LazyNetwork | None:
        return None if network is None else LazyNetwork(lambda: read(part, network), place=place)

    return _NetworksFile(
        space=networks.space,
        latent_avg=networks.latent_avg,
        encoder=lazy("encoder", networks.encoder),
        generator=lazy("generator", networks.generator),
        directions=networks.directions,
        crop_size=networks.encoder.config.image_size if networks.encoder is not None else 256,
    )


def _mark(path: Path) -> tuple[int, int] | None:
    """By what a change of a file is noticed; None where it cannot be asked."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _opened(path: Path, role: str, read: Callable[[Path], _T]) -> _T:
    """The file in this role, read at most once until it changes; anything odd in it is a PIDiffError."""
    return guarded(path, lambda path: share((role, path.resolve(), _mark(path)), lambda: read(path)))


def guarded(path: Path, read: Callable[[Path], _T]) -> _T:
    """What `read` makes of a stranger's file; anything odd in it is a PIDiffError."""
    try:
        return read(path)
    except PIDiffError as error:
        if path.name in str(error):
            raise
        raise PIDiffError(f"{path} does not hold what it should. {error}") from error
    except Exception as error:  # files come from strangers: no reader foresees all that a pickle can hold
        raise PIDiffError(
            f"{path} is no file that PIDiff can read ({type(error).__name__}). "
            "Use a file from its authors' own release page; the help page of LoadPIDiff lists them."
        ) from error


def _average(file: AdapterFile) -> Tensor | None:
    """W+ Adapter reads absolute codes and does not know the average; a PIDiff adapter's offsets count from it."""
    if file.latent_avg is None and file.adapter.config.format == "pidiff":
        raise PIDiffError(
            "The adapter's file does not hold the average code that its offsets count from. Choose the encoder too."
        )
    return file.latent_avg
