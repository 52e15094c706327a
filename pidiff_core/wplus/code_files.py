"""W+ codes as files: safetensors of this pack, which record the origin, and plain arrays of other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PIDiffError, listed
from ..files.arrays import load_array, load_arrays
from ..files.container import read_container, write_container, write_new_container
from ..files.pickles import load_pickle
from ..files.recognise import file_kind
from ..shapes import check_shape
from .codes import Refinement, WPlus, WPlusSpace

SUFFIXES = (".safetensors", ".pt", ".pth", ".npy", ".npz")
KIND = "codes"
_REFINEMENT = "refinement."  # in front of the keys of what tuned codes add to the adapter
# What projectors call the codes in their files: StyleGAN2-ADA and 3 (w), StyleGAN2 (dlatents), others.
_CODE_KEYS = (
    "w",
    "w_plus",
    "wplus",
    "dlatents",
    "dlatent",
    "latent",
    "latents",
    "latent_in",
    "codes",
    "projected_w",
    "arr_0",
)
_MOST_CODES = 100_000  # in one file


def save_codes(path: str | os.PathLike[str], wplus: WPlus) -> None:
    """Write codes, average, space and origin into one safetensors file; `load_codes` gives back the same bits."""
    tensors, config = _contents(wplus)
    write_container(path, tensors, kind=KIND, config=config)


def save_new_codes(folder: str | os.PathLike[str], name: str, wplus: WPlus, *, first: int = 1) -> Path:
    """Write codes under the first free name of `name_00001_.safetensors`, `name_00002_.safetensors` ...

    No file is ever overwritten, also not that of another process that saves under the same name at the same time.

    Args:
        folder: where to; it is made.
        name: of the file, without number and suffix.
        wplus: what to write.
        first: the number to begin with.

    Returns:
        The path of the file.

    Raises:
        PIDiffError: the file cannot be written.
    """
    tensors, config = _contents(wplus)
    number = first
    while True:
        path = Path(folder) / f"{name}_{number:05}_.safetensors"
        # A file system that folds case has the name in another spelling already: the exclusive write finds that out.
        if write_new_container(path, tensors, kind=KIND, config=config):
            return path
        number += 1


def load_codes(
    path: str | os.PathLike[str],
    *,
    space: WPlusSpace | None = None,
    latent_avg: Tensor | None = None,
    are_offsets: bool = False,
) -> WPlus:
    """Read codes from a file of `save_codes`, or from other tools' tensors and arrays (.pt, .pth, .npy, .npz).

    Those may be one code (S, D), a batch (B, S, D), a list of them, or what projectors write: a dictionary with the
    codes under a name such as `w` or `latent`, or such a dictionary for each picture. One style (1, D) is used for all.

    Args:
        path: the file; its content decides how it is read, not its name.
        space, latent_avg: the space of bare codes, which do not name it themselves, and its average (S, D), or None if
            it is unknown. Codes that name their space must agree with `space`.
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
    reader = {"npy": load_array, "npz": load_arrays, "pickle": load_pickle}[kind]
    codes = _stacked(reader(path), name=str(path))
    if space is None:
        raise PIDiffError(
            f"{path} holds {tuple(codes.shape)} bare numbers that do not name the W+ space that they belong to. "
            "Connect the PIDiff model whose encoder made them."
        )
    if codes.shape[1:] == (1, space.width):  # a code of W: every style is the same
        codes = codes.expand(-1, space.num_styles, -1)
    check_shape(codes, f"B {space.num_styles} {space.width}", name=f"The codes in {path}")
    if latent_avg is not None:
        absolute = codes + latent_avg if are_offsets else codes
        return WPlus(absolute, latent_avg, space, source=path.name)
    if are_offsets:
        raise PIDiffError(
            f"The codes in {path} are differences to an average code that the PIDiff model does not know. "
            "Choose the encoder in Load PIDiff Model too: its file holds the average."
        )
    return WPlus(codes, torch.zeros(codes.shape[1:]), space, source=path.name, average_known=False)


def _contents(wplus: WPlus) -> tuple[dict[str, Tensor], dict[str, Any]]:
    space = wplus.space
    config: dict[str, Any] = {
        "space": {"name": space.name, "num_styles": space.num_styles, "width": space.width},
        "source": wplus.source,
        "origin": dict(wplus.origin),
    }
    if not all(wplus.present):
        config["present"] = list(wplus.present)
    if not wplus.average_known:
        config["average_known"] = False
    tensors = {"codes": wplus.codes, "latent_avg": wplus.latent_avg}
    if wplus.refinement is not None:
        config["refined_adapter"] = wplus.refinement.adapter
        tensors |= {f"{_REFINEMENT}{name}": weight for name, weight in wplus.refinement.weights.items()}
    return tensors, config


def _own(path: Path) -> WPlus:
    tensors, config = read_container(path, kind=KIND)
    weights = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_REFINEMENT)}
    if set(tensors) != {"codes", "latent_avg"}:
        raise PIDiffError(
            f"{path} is a PIDiff file of codes, but it holds {listed(sorted(tensors))} instead of codes and "
            "latent_avg. Save it again with PIDiff Save Codes."
        )
    try:
        space = WPlusSpace(**config["space"])
        source, origin = str(config["source"]), dict(config["origin"])
        # Version 0.1 kept these two among the facts about the origin.
        present = config.get("present", origin.pop("present", None))
        average_known = config.get("average_known", not origin.pop("average_unknown", False))
    except (KeyError, TypeError, ValueError, PIDiffError) as error:
        raise PIDiffError(f"The configuration of the codes in {path} is incomplete: {error}.") from error
    count = len(tensors["codes"]) if tensors["codes"].ndim else 0
    refinement = None
    if weights:
        weights = {name.removeprefix(_REFINEMENT): weight.float() for name, weight in weights.items()}
        if not all(torch.isfinite(weight).all() for weight in weights.values()):
            raise PIDiffError(f"The tuned part of {path} holds numbers that are not finite. Tune the person again.")
        refinement = Refinement(str(config.get("refined_adapter", "")), weights)
    return WPlus(
        tensors["codes"],
        tensors["latent_avg"],
        space,
        source,
        origin,
        tuple(present) if isinstance(present, list) and len(present) == count else (),
        average_known is not False,
        refinement,
    )


def _stacked(content: Any, *, name: str) -> Tensor:
    """Codes in any of the layouts of `load_codes`, as one (B, S, D) float32 tensor."""
    if isinstance(content, Tensor):
        if content.ndim == 4 and content.shape[1] == 1:  # (B, 1, S, D): a batch of batches of one
            content = content[:, 0]
        if content.ndim == 2:
            content = content[None]
        if content.ndim == 3 and len(content) <= _MOST_CODES:
            return content.detach().float()
        raise PIDiffError(f"{name} should hold codes of (S, D) or (B, S, D), but it has {tuple(content.shape)}.")
    if isinstance(content, Mapping) and content:
        found = [content[key] for key in _CODE_KEYS if key in content]
        if found:
            return _stacked(found[0], name=name)
        parts = list(content.values())
        if all(isinstance(part, Mapping) and any(key in part for key in _CODE_KEYS) for part in parts):
            content = parts  # a dictionary of pictures' names
    if isinstance(content, list | tuple) and content:
        parts = [_stacked(part, name=name) for part in content]
        if len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(parts)
        raise PIDiffError(f"{name} holds codes of different shapes: {listed({tuple(part.shape) for part in parts})}.")
    keys = f" with {listed(content, most=4)}" if isinstance(content, Mapping) else ""
    raise PIDiffError(
        f"{name} does not hold W+ codes but a {type(content).__name__}{keys}. Expected a tensor of (S, D), or a "
        f"dictionary with one named {', '.join(_CODE_KEYS[:4])} ..."
    )
