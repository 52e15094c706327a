"""The cross-attentions of ComfyUI's UNet, and whether an adapter fits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...pidiff_core.adapter.adapter import IdentityAdapter
from ...pidiff_core.adapter.config import FAMILIES
from ...pidiff_core.adapter.sites import Site, SiteSpec
from ...pidiff_core.errors import PIDiffError

# The host's names for the kinds of models, of which its other kinds are derived; MiniConfig is ours.
_FAMILY_OF = {"SD15": "sd15", "SD20": "sd2", "SDXL": "sdxl", "MiniConfig": "mini"}


@dataclass(frozen=True, eq=False)
class FoundSite:
    """A cross-attention of the host's UNet."""

    spec: SiteSpec
    context_width: int
    precision: torch.dtype | None  # of its scores, if they need more than the model's
    alone: bool  # the only transformer layer of its block: other packs then name it without its index


def unet_sites(model: ModelPatcher) -> dict[str, FoundSite]:
    """Every cross-attention of the model's UNet by site name.

    Raises:
        PIDiffError: the model has no such UNet.
    """
    unet = model.get_model_object("diffusion_model")
    blocks = [("input", getattr(unet, "input_blocks", [])), ("output", getattr(unet, "output_blocks", []))]
    entries = [(block, number, entry) for block, part in blocks for number, entry in enumerate(part)]
    if getattr(unet, "middle_block", None) is not None:  # KOALA has none
        entries.append(("middle", 0, unet.middle_block))
    found = {}
    for block, number, entry in entries:
        for layer in entry:
            transformers = getattr(layer, "transformer_blocks", [])
            for index, transformer in enumerate(transformers):
                attention = getattr(transformer, "attn2", None)
                if attention is None:
                    continue
                name = Site(block, number, index).name
                spec = SiteSpec(name, attention.heads * attention.dim_head, attention.heads)
                found[name] = FoundSite(
                    spec,
                    _context_width(attention.to_k, model),
                    getattr(attention, "attn_precision", None),
                    alone=len(transformers) == 1,
                )
    if not found:
        raise PIDiffError(
            f"This model ({type(unet).__name__}) has no UNet with cross-attention. Identity adapters work with models "
            "of the Stable Diffusion 1.x, 2.x and XL kinds."
        )
    return found


def _context_width(to_k: Any, model: ModelPatcher) -> int:
    """How many numbers a token of the prompt has.

    Layers of quantising packs hold their weights in a shape of their own, and not all of them keep `in_features`; some
    wrap the layer. Then the configuration that the host has read from the checkpoint has it.
    """
    layers = to_k.modules() if isinstance(to_k, torch.nn.Module) else [to_k]
    for width in (getattr(layer, "in_features", None) for layer in layers):
        if isinstance(width, int) and width > 0:
            return width
    width = (getattr(model.model.model_config, "unet_config", None) or {}).get("context_dim")
    if isinstance(width, int) and width > 0:
        return width
    raise PIDiffError(
        f"PIDiff cannot read the width of this model's cross-attentions: its layers are of the type "
        f"{type(to_k).__name__}, and the model's configuration has no context_dim. Put Apply Identity Adapter before "
        "the node that quantises the model, or use the checkpoint that is not quantised."
    )


def model_family(model: ModelPatcher) -> str:
    """The model's family, a key of `FAMILIES`; "" if it is none of them."""
    kinds = [kind.__name__ for kind in type(model.model.model_config).__mro__]
    return next((_FAMILY_OF[kind] for kind in kinds if kind in _FAMILY_OF), "")


def fitting_sites(model: ModelPatcher, adapter: IdentityAdapter) -> dict[str, FoundSite]:
    """`unet_sites` of a model that the adapter fits.

    Raises:
        PIDiffError: the adapter is for another family, or one of its sites is not in the model with its width, heads
            and context width.
    """
    found = unet_sites(model)
    family, trained_for = model_family(model), adapter.config.family
    if trained_for and family and trained_for != family:
        raise PIDiffError(
            f"The adapter was trained for {FAMILIES.get(trained_for, trained_for)}, but the model is "
            f"{FAMILIES[family]}. Load a checkpoint of the adapter's family, or an adapter for this one."
        )
    width = next(iter(found.values())).context_width
    if adapter.config.token_width != width:
        raise PIDiffError(
            f"The adapter does not fit this model: its tokens are {adapter.config.token_width} wide, the model's "
            f"context is {width} wide. Use an adapter that was trained for this kind of model."
        )
    for spec in adapter.config.sites:
        there = found.get(spec.name)
        if there is None or there.spec != spec:
            has = "no such site" if there is None else f"{there.spec.width} channels in {there.spec.heads} heads"
            raise PIDiffError(
                f"The adapter does not fit this model: at site {spec.name} it expects {spec.width} channels in "
                f"{spec.heads} heads, the model has {has}. Use an adapter that was trained for this kind of model."
            )
    return found
