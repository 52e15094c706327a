"""A PIDiffModel from the user's files: what LoadPIDiff does."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .adapter.formats import AdapterFile, load_adapter
from .adapter.published import from_published
from .checkpoint import file_kind, load_pickle
from .errors import PIDiffError
from .model import PIDiffModel
from .networks import Networks, load_networks


def load_any_adapter(path: Path) -> AdapterFile:
    """A PIDiff adapter or a published W+ Adapter; the content decides.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    if file_kind(path) == "safetensors":
        return load_adapter(path)
    return from_published(load_pickle(path), name=path.name)


def load_pidiff(*, adapter: Path | None, encoder: Path | None) -> PIDiffModel:
    """Adapter, encoder, or both.

    Raises:
        PIDiffError: neither is given, the two belong to different W+ spaces, or nothing says what the average code is.
    """
    if adapter is None and encoder is None:
        raise PIDiffError("Nothing to load: choose an adapter, an encoder, or both.")
    file = None if adapter is None else load_any_adapter(adapter)
    networks = None if encoder is None else load_networks(encoder)
    if file is not None and networks is not None and file.space != networks.space:
        raise PIDiffError(
            f"The adapter reads codes of {file.space}, the encoder writes codes of {networks.space}. "
            "Choose an encoder of the adapter's own space."
        )
    latent_avg = _average(file, networks)
    space = networks.space if networks is not None else file.space  # type: ignore[union-attr]
    source = " + ".join(path.name for path in (adapter, encoder) if path is not None)
    if networks is None:
        return PIDiffModel(space=space, latent_avg=latent_avg, adapter=file.adapter, source=source)  # type: ignore[union-attr]
    return PIDiffModel(
        space=space,
        latent_avg=latent_avg,
        adapter=None if file is None else file.adapter,
        encoder=networks.encoder,
        generator=networks.generator,
        directions=networks.directions,
        crop_size=networks.encoder.config.image_size if networks.encoder is not None else 256,
        source=source,
    )


def _average(file: AdapterFile | None, networks: Networks | None) -> Tensor:
    if networks is not None:
        return networks.latent_avg
    assert file is not None
    if file.latent_avg is not None:
        return file.latent_avg
    if file.adapter.config.format == "pidiff":
        raise PIDiffError(
            "The adapter's file does not hold the average code that its offsets count from. Choose the encoder too."
        )
    # W+ Adapter reads absolute codes, which carry their own average; the model's own is not used then.
    return torch.zeros(file.space.num_styles, file.space.width)
