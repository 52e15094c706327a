"""Adapter files: our own container, with the adapter's configuration inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import AdapterConfig
from ..errors import PIDiffError
from ..wplus.codes import WPlusSpace
from .container import read_container, write_container
from .weights import load_strict

LATENT_AVG = "latent_avg"


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """What an adapter file holds.

    Args:
        adapter: in fp32 on the CPU, in evaluation mode, without gradients.
        space: the W+ space of its codes.
        latent_avg: average code (S, D) of that space, or None if the file does not hold it.
        notes: what the training wrote down (steps, data, licence).
        family: the base models that it was trained for, such as "sd15", or None if it is unknown.
    """

    adapter: IdentityAdapter
    space: WPlusSpace
    latent_avg: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None


def save_adapter(
    path: str | os.PathLike[str],
    adapter: IdentityAdapter,
    *,
    space: WPlusSpace,
    latent_avg: Tensor | None = None,
    notes: Mapping[str, Any] | None = None,
    family: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an adapter to one safetensors file.

    Args:
        path: where to; an existing file is replaced only once the new one is whole.
        adapter: what to write.
        space: the W+ space that the adapter was trained in.
        latent_avg: average code (S, D) of that space.
        notes: facts about the training; plain JSON values.
        family: the base models that it was trained for: "sd15", "sd2", "sdxl" or "mini".
        dtype: type of the stored weights; fp16 halves the file. `latent_avg` stays fp32.

    Raises:
        PIDiffError: the file cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in adapter.state_dict().items()}
    if latent_avg is not None:
        tensors[LATENT_AVG] = latent_avg.detach().to("cpu", torch.float32).contiguous()
    config: dict[str, Any] = {
        "adapter": adapter.config.to_dict(), "space": asdict(space), "notes": dict(notes or {})
    }  # fmt: skip
    if family is not None:
        config["family"] = family
    write_container(path, tensors, kind="adapter", config=config)


def load_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Read what `save_adapter` wrote.

    Raises:
        PIDiffError: the file holds something else, or its weights do not match its configuration.
    """
    tensors, config = read_container(path, kind="adapter")
    latent_avg = tensors.pop(LATENT_AVG, None)
    notes, family = config.get("notes", {}), config.get("family")
    try:
        adapter_config, space = AdapterConfig.from_dict(config["adapter"]), WPlusSpace(**config["space"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PIDiffError(f"The configuration in {path} is incomplete: {error}. Save it again.") from error
    with torch.device("meta"):  # no memory before the file's tensors are known to fill it
        adapter = IdentityAdapter(adapter_config)
    load_strict(adapter, tensors, name=f"the adapter in {path}", dtype=torch.float32)
    return AdapterFile(
        adapter.eval().requires_grad_(False),
        space,
        None if latent_avg is None else latent_avg.float(),
        notes if isinstance(notes, dict) else {},
        family if isinstance(family, str) else None,
    )
