"""W+ Adapter's published checkpoints, recognised by their keys: `wplus_adapter.bin` and un-split training checkpoints.

Layout (FORMATS of github.com/csxmli2016/w-plus-adapter, release v1): a dict of two state dicts, `w_proj` and
`wplus_adapter`; the latter's keys begin with the number of the attention processor in diffusers' order (down, up, mid
blocks; self-attention even, cross-attention odd). Training checkpoints hold the same under `w_proj_model.` and
`adapter_modules.`, beside the whole UNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import listed, load_strict, settle, strip_prefix
from ..errors import PIDiffError
from ..wplus import WPlusSpace
from .adapter import IdentityAdapter
from .config import AdapterConfig
from .formats import AdapterFile
from .sites import SiteSpec

SPACE = WPlusSpace("ffhq-1024", 18, 512)
_HEADS = 8
# Stable Diffusion 1.5: processors 1, 3 ... 31 in diffusers' order.
SITES = (
    *(f"input.{number}.0" for number in (1, 2, 4, 5, 7, 8)),
    *(f"output.{number}.0" for number in range(3, 12)),
    "middle.0.0",
)


def from_published(content: Any, *, name: str) -> AdapterFile:
    """The adapter in what `load_pickle` returned.

    Raises:
        PIDiffError: another kind of file, or keys and shapes that do not fit.
    """
    projection, branches = _parts(content, name)
    numbers = sorted({int(match[1]) for key in branches if (match := re.match(r"(\d+)\.", key))})
    if not numbers:
        raise PIDiffError(
            f"{name} is an incomplete W+ Adapter: no key of its branches begins with a number ({listed(branches)})."
        )
    if numbers != list(range(1, 2 * len(SITES), 2)):
        raise PIDiffError(
            f"{name} is a W+ Adapter for another model than Stable Diffusion 1.5: it has {len(numbers)} sites "
            f"({', '.join(map(str, numbers[:6]))} ...), expected the odd numbers 1 to {2 * len(SITES) - 1}."
        )
    try:
        widths = [branches[f"{number}.to_k_wplus.weight"].shape[0] for number in numbers]
        token_width = projection["norm.weight"].shape[0]
    except (KeyError, AttributeError, IndexError) as error:
        raise PIDiffError(f"{name} is an incomplete W+ Adapter: {error} is missing or no tensor.") from error
    config = AdapterConfig(
        sites=tuple(SiteSpec(site, width, _HEADS) for site, width in zip(SITES, widths)),
        format="wplus-adapter",
        query="text",
        num_styles=SPACE.num_styles,
        code_width=SPACE.width,
        token_width=token_width,
    )
    with torch.device("meta"):  # no memory before the file's tensors are known to fill it
        adapter = IdentityAdapter(config)
    state = {f"projection.{key}": tensor for key, tensor in projection.items()}
    left_over = []
    for key, tensor in branches.items():
        match = re.fullmatch(r"(\d+)\.(to_[kvq])_wplus\.weight", key)
        if match is None:
            left_over.append(key)
            continue
        site = SITES[int(match[1]) // 2].replace(".", "_")
        state[f"sites.{site}.{match[2]}.weight"] = tensor
    if left_over:
        raise PIDiffError(f"{name} has keys that no W+ Adapter has: {listed(left_over)}.")
    load_strict(adapter, state, name=f"W+ Adapter ({name})")
    notes = {"origin": "W+ Adapter (CVPR 2024), S-Lab License 1.0, non-commercial"}
    return AdapterFile(settle(adapter, name=f"W+ Adapter ({name})"), SPACE, None, notes)


def _parts(content: Any, name: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    if isinstance(content, Mapping):
        if isinstance(content.get("w_proj"), Mapping) and isinstance(content.get("wplus_adapter"), Mapping):
            if extra := sorted(set(map(str, content)) - {"w_proj", "wplus_adapter"}):
                raise PIDiffError(f"{name} has parts that no W+ Adapter has: {listed(extra)}.")
            return content["w_proj"], content["wplus_adapter"]
        keys = [str(key) for key in content]
        if any(key.startswith("adapter_modules.") for key in keys):
            unknown = [key for key in keys if not key.startswith(("w_proj_model.", "adapter_modules.", "unet."))]
            if unknown:
                raise PIDiffError(f"{name} has keys that no W+ Adapter has: {listed(unknown)}.")
            return strip_prefix(content, "w_proj_model."), strip_prefix(content, "adapter_modules.")
        raise PIDiffError(
            f"{name} is no identity adapter: its keys are {listed(keys) or 'none'}. Expected a PIDiff "
            "adapter (.safetensors) or wplus_adapter.bin."
        )
    raise PIDiffError(f"{name} is no identity adapter: it holds a {type(content).__name__}.")
