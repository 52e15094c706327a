"""W+ Adapter's weights, recognised by their keys: `wplus_adapter.bin`, its conversions, and training checkpoints.

Published (github.com/csxmli2016/w-plus-adapter, release v1) is a dict of two state dicts, `w_proj` and `wplus_adapter`;
the latter's keys begin with the number of the attention processor in diffusers' order (down, up, mid blocks;
self-attention even, cross-attention odd). Conversions to safetensors hold the same in one flat dict, the part in front
of the key. Training checkpoints, as pickles or safetensors, call the two `w_proj_model.` and `adapter_modules.`, and
also hold the whole UNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...adapter.adapter import IdentityAdapter
from ...adapter.config import AdapterConfig
from ...adapter.sites import SiteSpec
from ...errors import PIDiffError, listed
from ...wplus.codes import WPlusSpace
from ..adapters import AdapterFile
from ..safetensors import SafetensorsFile
from ..weights import load_strict, strip_prefix

SPACE = WPlusSpace("ffhq-1024", 18, 512)
_HEADS = 8
# Prefixes of the two parts in flat files: of the projection's keys, and of the branches'.
_FLAT = (("w_proj.", "wplus_adapter."), ("w_proj_model.", "adapter_modules."))
_UNET = "unet."  # also in training checkpoints; not read
# Stable Diffusion 1.5: processors 1, 3 ... 31 in diffusers' order.
SITES = (
    *(f"input.{number}.0" for number in (1, 2, 4, 5, 7, 8)),
    *(f"output.{number}.0" for number in range(3, 12)),
    "middle.0.0",
)


def read_wplus_adapter(content: Any, *, name: str) -> AdapterFile:
    """The adapter in what `load_pickle` returned, or in the tensors of a safetensors file.

    Raises:
        PIDiffError: another kind of file, or keys and shapes that do not fit.
    """
    projection, branches = _parts(content, name)
    numbers = sorted({int(match[1]) for key in branches if (match := re.match(r"(\d{1,6})\.", key))})
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
        raise PIDiffError(f"{name} is an incomplete W+ Adapter: {error} is missing or is not a tensor.") from error
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
    weights = {f"projection.{key}": tensor for key, tensor in projection.items()}
    left_over = []
    for key, tensor in branches.items():
        match = re.fullmatch(r"(\d+)\.(to_[kvq])_wplus\.weight", key)
        if match is None:
            left_over.append(key)
            continue
        site = SITES[int(match[1]) // 2].replace(".", "_")
        weights[f"sites.{site}.{match[2]}.weight"] = tensor
    if left_over:
        raise PIDiffError(f"{name} has keys that no W+ Adapter has: {listed(left_over)}.")
    load_strict(adapter, weights, name=f"W+ Adapter ({name})", dtype=torch.float32)
    notes = {"origin": "W+ Adapter (CVPR 2024), S-Lab License 1.0, non-commercial"}
    return AdapterFile(adapter.eval().requires_grad_(False), SPACE, None, notes, family="sd15")


def open_wplus_adapter(file: SafetensorsFile, *, name: str) -> AdapterFile:
    """`read_wplus_adapter` of a safetensors file: flat, or a training checkpoint, whose UNet is not read."""
    shapes = file.shapes()
    _parts(shapes, name)  # another kind of file is refused before gigabytes of it are read
    return read_wplus_adapter({key: file.read(key) for key in shapes if not key.startswith(_UNET)}, name=name)


def _parts(content: Any, name: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The weights of the projection and of the branches."""
    if not isinstance(content, Mapping):
        raise PIDiffError(f"{name} is not an identity adapter: it holds a {type(content).__name__}.")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise PIDiffError(f"{name} is not an identity adapter: some keys are not names: {listed(odd)}.")
    if isinstance(content.get("w_proj"), Mapping) and isinstance(content.get("wplus_adapter"), Mapping):
        if extra := sorted(set(content) - {"w_proj", "wplus_adapter"}):
            raise PIDiffError(f"{name} has parts that no W+ Adapter has: {listed(extra)}.")
        projection, branches = content["w_proj"], content["wplus_adapter"]
        if odd := [key for key in (*projection, *branches) if not isinstance(key, str)]:
            raise PIDiffError(f"{name} is not an identity adapter: some keys are not names: {listed(odd)}.")
        return projection, branches
    for projection_prefix, branch_prefix in _FLAT:
        if any(key.startswith(branch_prefix) for key in content):
            known = (projection_prefix, branch_prefix, _UNET)
            if unknown := [key for key in content if not key.startswith(known)]:
                raise PIDiffError(f"{name} has keys that no W+ Adapter has: {listed(unknown)}.")
            return strip_prefix(content, projection_prefix), strip_prefix(content, branch_prefix)
    raise PIDiffError(
        f"{name} is not an identity adapter: its keys are {listed(content) or 'none'}. Expected a PIDiff "
        "adapter (.safetensors) or wplus_adapter.bin."
    )
