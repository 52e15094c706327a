"""Adapter checkpoints: the native one, a single safetensors file with its configuration in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, load_strict, save_checkpoint, settle
from ..errors import PIDiffError
from ..wplus import WPlusSpace
from .adapter import IdentityAdapter
from .config import AdapterConfig

KIND = "adapter"
LATENT_AVG = "latent_avg"


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """What an adapter checkpoint holds.

    Args:
        adapter: in fp32 on the CPU, in evaluation mode, without gradients.
        space: the W+ space that its codes live in.
        latent_avg: average code (S, D) of that space, or None where the file does not say.
        notes: whatever the training wrote down (steps, data, licence).
    """

    adapter: IdentityAdapter
    space: WPlusSpace
    latent_avg: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def save_adapter(
    path: str | os.PathLike[str],
    adapter: IdentityAdapter,
    *,
    space: WPlusSpace,
    latent_avg: Tensor | None = None,
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an adapter to one safetensors file.

    Args:
        path: where to; an existing file is replaced only once the new one is whole.
        adapter: what to write.
        space: the W+ space that the adapter was trained in.
        latent_avg: average code (S, D) of that space.
        notes: facts about the training; plain JSON values.
        dtype: type of the stored weights; fp16 halves the file. `latent_avg` stays fp32.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in adapter.state_dict().items()}
    if latent_avg is not None:
        tensors[LATENT_AVG] = latent_avg.detach().to("cpu", torch.float32).contiguous()
    config = {"kind": KIND, "adapter": adapter.config.to_json(), "space": asdict(space), "notes": dict(notes or {})}
    save_checkpoint(path, tensors, config)


def load_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Read what `save_adapter` wrote.

    Raises:
        PIDiffError: the file holds something else, or its weights do not match its configuration.
    """
    tensors, config = load_checkpoint(path)
    if config.get("kind") != KIND:
        raise PIDiffError(
            f"{path} holds '{config.get('kind', 'something unnamed')}', not an adapter: pick it where it belongs."
        )
    latent_avg = tensors.pop(LATENT_AVG, None)
    try:
        adapter_config, space = AdapterConfig.from_json(config["adapter"]), WPlusSpace(**config["space"])
    except (KeyError, TypeError, ValueError) as error:
        raise PIDiffError(f"The configuration in {path} is incomplete: {error}. Save it again.") from error
    with torch.device("meta"):  # no memory before the file's tensors are known to fill it
        adapter = IdentityAdapter(adapter_config)
    load_strict(adapter, tensors, name=f"the adapter in {path}")
    adapter = settle(adapter, name=f"the adapter in {path}")
    latent_avg = None if latent_avg is None else latent_avg.to(torch.float32, copy=True)
    return AdapterFile(adapter, space, latent_avg, config.get("notes", {}))
