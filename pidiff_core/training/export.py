"""Adapters before and after training: what a run starts from, and the file with its card that LoadPIDiff reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import FAMILIES
from ..errors import PIDiffError
from ..files.adapters import AdapterFile, load_adapter, save_adapter
from ..files.loading import load_any_adapter
from ..wplus.codes import WPlusSpace
from .bases.base import Base
from .diffusers_processor import cross_attention_sites

ADAPTER_FILE = "adapter.safetensors"
_OWN_CARD = ("name", "author", "licence")


def adapter_to_start_from(path: str | Path, *, base: Base, space: WPlusSpace) -> AdapterFile:
    """An adapter to go on training: PIDiff's own file, or W+ Adapter's wplus_adapter.bin.

    Raises:
        PIDiffError: it is for another family of bases, another UNet or another W+ space.
    """
    file = load_any_adapter(Path(path))
    config = file.adapter.config
    if config.family and config.family != base.family:
        raise PIDiffError(
            f"{path} is an adapter for {FAMILIES.get(config.family, config.family)}, but the base is "
            f"{FAMILIES[base.family]}. Start from an adapter of the base's family, or without one."
        )
    if set(config.sites) != set(cross_attention_sites(base.unet)) or config.token_width != base.context_width:
        raise PIDiffError(
            f"{path} does not fit the UNet of {base.name} (its sites or its token width of {config.token_width} "
            f"differ). Start from an adapter for {FAMILIES[base.family]}."
        )
    if (file.space.num_styles, file.space.width) != (space.num_styles, space.width):
        raise PIDiffError(
            f"{path} reads codes of {file.space}, but the prepared photos have codes of {space}. Prepare them with "
            "that space's encoder."
        )
    return file


def with_family(adapter: IdentityAdapter, family: str) -> IdentityAdapter:
    """The adapter, with the family of its base recorded in its configuration."""
    object.__setattr__(adapter.config, "family", family)
    return adapter


def write_adapter(
    path: Path, adapter: IdentityAdapter, *, space: WPlusSpace, latent_avg: Tensor, card: Mapping[str, Any]
) -> None:
    """The adapter of a run, in 32 bits, with what is known about it so far."""
    save_adapter(path, adapter, space=space, latent_avg=latent_avg, notes=card)


def export_adapter(
    source: Path, out: Path, *, own: Mapping[str, str], evaluation: Path | None = None, half: bool = True
) -> dict[str, Any]:
    """Write a run's adapter as the file that people share.

    Args:
        source: what a run wrote.
        out: a .safetensors file.
        own: entries of the user: name, author, licence.
        evaluation: evaluation.json of `pidiff evaluate`, whose figures go into the card.
        half: store the weights in 16 bits.

    Returns:
        The card.

    Raises:
        PIDiffError: no adapter yet, or the file cannot be written.
    """
    if not source.is_file():
        raise PIDiffError(
            f"{source} does not exist: the run has not written an adapter yet. Train until its first checkpoint."
        )
    file = load_adapter(source)
    card = {**file.notes, **{key: own[key] for key in _OWN_CARD if own.get(key)}}
    card.setdefault("licence", "not stated")
    if evaluation is not None:
        card["evaluation"] = _figures(evaluation)
    save_adapter(
        out,
        file.adapter,
        space=file.space,
        latent_avg=file.latent_avg,
        notes=card,
        dtype=torch.float16 if half else torch.float32,
    )
    return card


def _figures(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PIDiffError(f"The evaluation {path} cannot be read: {error}. Run pidiff evaluate again.") from error
