"""W+ codes as files: our own safetensors with where they came from, and the bare arrays that others exchange."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import file_kind, load_array, load_checkpoint, load_pickle, save_checkpoint
from .errors import PIDiffError
from .shapes import check_shape
from .wplus import AVERAGE_UNKNOWN, WPlus, WPlusSpace

SUFFIXES = (".safetensors", ".pt", ".pth", ".npy")
KIND = "codes"


def save_codes(path: str | os.PathLike[str], wplus: WPlus) -> None:
    """Write codes, average, space and origin into one safetensors file; `load_codes` gives back the same bits."""
    space = wplus.space
    config = {
        "kind": KIND,
        "space": {"name": space.name, "num_styles": space.num_styles, "width": space.width},
        "source": wplus.source,
        "origin": dict(wplus.origin),
    }
    save_checkpoint(path, {"codes": wplus.codes, "latent_avg": wplus.latent_avg}, config)


def load_codes(
    path: str | os.PathLike[str],
    *,
    space: WPlusSpace | None = None,
    latent_avg: Tensor | None = None,
    are_offsets: bool = False,
) -> WPlus:
    """Read codes from a file of `save_codes`, or from a bare tensor, array, or list of them (.pt, .pth, .npy).

    Args:
        path: the file; what it is is read off its content, not off its name.
        space, latent_avg: the space of bare codes, which do not say it themselves, and its average (S, D), or None
            where nobody knows it. Codes that do say their space must agree with `space` where it is given.
        are_offsets: bare codes are differences to the average; they are absolute otherwise, as published encoders give.

    Raises:
        PIDiffError: no codes, codes of another space, bare codes without a space, offsets without an average,
            or a damaged file.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "safetensors":
        wplus = _own(path)
        if space is not None and wplus.space != space:
            raise PIDiffError(f"The codes in {path} belong to {wplus.space}, but the PIDiff model is of {space}.")
        return wplus
    content = load_array(path) if kind == "npy" else load_pickle(path)
    codes = _stacked(content, name=str(path))
    if space is None:
        raise PIDiffError(
            f"{path} holds {tuple(codes.shape)} bare numbers that do not say which W+ space they belong to. "
            "Connect the PIDiff model whose encoder made them."
        )
    check_shape(codes, f"B {space.num_styles} {space.width}", name=f"The codes in {path}")
    if latent_avg is not None:
        absolute = codes + latent_avg if are_offsets else codes
        return WPlus(absolute, latent_avg, space, source=path.name)
    if are_offsets:
        raise PIDiffError(
            f"The codes in {path} are differences to an average code that the PIDiff model does not know. "
            "Choose the encoder in LoadPIDiff too: its file holds the average."
        )
    return WPlus(codes, torch.zeros(codes.shape[1:]), space, source=path.name, origin={AVERAGE_UNKNOWN: True})


def _own(path: Path) -> WPlus:
    tensors, config = load_checkpoint(path)
    if config.get("kind") != KIND or set(tensors) != {"codes", "latent_avg"}:
        raise PIDiffError(
            f"{path} is a PIDiff file, but not one of codes: it is '{config.get('kind')}' and it holds "
            f"{', '.join(sorted(tensors)[:4])} ... Give a file that the node PIDiffSaveCodes has written."
        )
    try:
        space = WPlusSpace(**config["space"])
        source, origin = str(config["source"]), dict(config["origin"])
    except (KeyError, TypeError, ValueError, PIDiffError) as error:
        raise PIDiffError(f"The configuration of the codes in {path} is incomplete: {error}.") from error
    return WPlus(tensors["codes"], tensors["latent_avg"], space, source, origin)


def _stacked(content: Any, *, name: str) -> Tensor:
    """A tensor or a list of them, each (S, D) or (B, S, D), as one (B, S, D) float32 tensor."""
    if isinstance(content, Tensor):
        if content.ndim == 2:
            return content[None].float()
        if content.ndim == 3:
            return content.float()
        raise PIDiffError(f"{name} should hold codes of (S, D) or (B, S, D), but it has {tuple(content.shape)}.")
    if isinstance(content, list | tuple) and content:
        parts = [_stacked(part, name=name) for part in content]
        if len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(parts)
        raise PIDiffError(f"{name} holds codes of different shapes: {sorted({tuple(part.shape) for part in parts})}.")
    keys = f" with {', '.join(map(str, list(content)[:4]))}" if isinstance(content, dict) else ""
    raise PIDiffError(f"{name} holds no W+ codes but a {type(content).__name__}{keys}. Give a tensor of (S, D).")
