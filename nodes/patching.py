"""The identity in ComfyUI's UNet: the only code that touches ModelPatcher.

Each Apply makes one immutable `Identity` and puts one small `SitePatch` on every site (site_patch.py). It takes in the
identities, and wraps whatever else, that are on the site already, so that several identities and other packs add up.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..pidiff_core.adapter.adapter import IdentityAdapter
from ..pidiff_core.adapter.folding import FoldedSite, fold, level_strengths
from ..pidiff_core.adapter.sites import Site, SiteSpec
from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.shapes import check_shape
from ..pidiff_core.wplus import WPlus
from .evaluation import note_conds, note_evaluation
from .identity import Identity
from .site_patch import SitePatch
from .watch import APPLIES_KEY, identities_of, patches_in, replacements_in

KEY = "pidiff"  # our name among the host's callbacks and wrappers
Folded = Mapping[str, FoldedSite]  # by site name


@dataclass(frozen=True)
class ApplyOptions:
    """What the user sets on ApplyIdentityAdapter."""

    strength: float = 1.0
    start_percent: float = 0.0  # of the sampling, as ComfyUI counts it
    end_percent: float = 1.0
    levels: Mapping[str, float] = field(default_factory=dict)  # coarse, medium, fine; 1 where absent
    sites: Mapping[str, float] = field(default_factory=dict)  # a factor by site name; 1 where absent
    uncond_average: bool = False  # the unconditional half gets the tokens of an all-zero code, as W+ Adapter's does
    beside: bool = False  # left to right with the other identities that are; only without a mask

    @property
    def does_nothing(self) -> bool:
        """Whether the picture stays the vanilla one whatever the identity."""
        return self.strength == 0 or self.start_percent >= self.end_percent


def apply_identity(
    model: ModelPatcher,
    adapter: IdentityAdapter,
    wplus: WPlus,
    *,
    options: ApplyOptions,
    mask_bhw: Tensor | None = None,
) -> ModelPatcher:
    """A clone of `model` that draws these identities; row i of a latent batch gets identity i modulo their number.

    Args:
        model: a Stable Diffusion model; it is not changed.
        adapter: trained for this UNet's widths.
        wplus: the identities (I, S, D); those that are not `present` add nothing.
        options: see `ApplyOptions`.
        mask_bhw: where in the picture the identity may act, (H, W) or (B, H, W) in [0, 1], any size.

    Raises:
        PIDiffError: the model is no UNet with cross-attention, or adapter, codes and model do not fit together.
    """
    patched = model.clone()
    found = unet_sites(model)
    check_fit(adapter, found)
    mask = _as_mask(mask_bhw)
    before = applies_of(model)
    beside = options.beside and (mask is None or bool((mask == 1).all()))
    patched.model_options["transformer_options"][APPLIES_KEY] = (*before, beside)
    if options.does_nothing or (mask is not None and not mask.any()):
        return patched
    if mask is not None and bool((mask == 1).all()):
        mask = None
    sites, uncond = (
        {name: replace(site, score_dtype=found[name].precision) for name, site in half.items()}
        for half in _folded(adapter, wplus, options)
    )
    sampling = model.get_model_object("model_sampling")
    identity = Identity(
        sites=sites,
        uncond_sites=uncond,
        mask=mask,
        sigma_start=float(sampling.percent_to_sigma(options.start_percent)),
        sigma_end=float(sampling.percent_to_sigma(options.end_percent)),
        always=options.start_percent <= 0 and options.end_percent >= 1,
        order=len(before),
        beside=beside,
    )
    if sites or uncond:
        _watch(patched)
    for name in dict.fromkeys([*sites, *uncond]):
        _put(patched, Site.from_name(name), found[name], identity)
    return patched


def _folded(adapter: IdentityAdapter, wplus: WPlus, options: ApplyOptions) -> tuple[Folded, Folded]:
    """What the conditional and the unconditional half get, by site name."""
    # Nodes run in inference mode; what is made in it could never meet a gradient, and guidance by gradients needs one.
    with torch.inference_mode(False), torch.no_grad():
        present = torch.tensor(wplus.present, dtype=torch.float32)
        factors = torch.outer(present, level_strengths(adapter, options.levels) * options.strength)
        sites = fold(adapter, adapter.tokens(wplus), strengths=factors, sites=options.sites)
        if not options.uncond_average:
            return sites, {}
        zero = adapter.zero_tokens()
        zero, share = (zero, factors[:1]) if present.all() else (zero.expand(len(wplus), -1, -1), factors)
        return sites, fold(adapter, zero, strengths=share, sites=options.sites)


@dataclass(frozen=True, eq=False)
class FoundSite:
    """A cross-attention of the host's UNet."""

    spec: SiteSpec
    context_width: int
    precision: torch.dtype | None  # of its scores, where they need more than the model's
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
                    attention.to_k.in_features,
                    getattr(attention, "attn_precision", None),
                    alone=len(transformers) == 1,
                )
    if not found:
        raise PIDiffError(
            f"This model ({type(unet).__name__}) has no UNet with cross-attention. Identity adapters work with models "
            "of the Stable Diffusion 1.x, 2.x and XL kinds."
        )
    return found


def check_fit(adapter: IdentityAdapter, found: Mapping[str, FoundSite]) -> None:
    """PIDiffError unless every site of the adapter is in the model, with its width, heads and context width."""
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


def applies_of(model: ModelPatcher) -> tuple[bool, ...]:
    """For each Apply node that a model has passed, whether its people stand in the row, left to right."""
    return model.model_options["transformer_options"].get(APPLIES_KEY, ())


def people_of(model: ModelPatcher) -> list[Identity]:
    """The identities that act in a model, in the order in which they were applied."""
    return identities_of(patches_in(model.model_options["transformer_options"]))


def _as_mask(mask_bhw: Tensor | None) -> Tensor | None:
    if mask_bhw is None:
        return None
    mask = mask_bhw if mask_bhw.ndim == 3 else mask_bhw[None]
    check_shape(mask, "B H W", name="the attention mask")
    if not torch.isfinite(mask).all():
        raise PIDiffError("The attention mask holds values that are not finite.")
    with torch.inference_mode(False):
        return mask.detach().float().cpu().clamp(0.0, 1.0)


def _put(model: ModelPatcher, site: Site, found: FoundSite, identity: Identity) -> None:
    """Place the identity on a site: into our own patch where there is one, else around what is there.

    ComfyUI looks for (block, number, index) first, then for (block, number). Where the block has one layer only, the
    short key is used, as other packs do: they would otherwise not see each other.
    """
    there = _replacements(model)
    long_key, short_key = (site.block, site.number, site.index), (site.block, site.number)
    index = None if found.alone and long_key not in there else site.index
    inner = there.get(long_key, there.get(short_key))
    if isinstance(inner, SitePatch):
        patch = SitePatch(site.name, [*inner.identities, identity], inner=inner.inner, callbacks=inner.callbacks)
    else:
        patch = SitePatch(site.name, [identity], inner=inner)
    model.set_model_attn2_replace(patch, site.block, site.number, index)


def _replacements(model: ModelPatcher) -> dict[tuple[Any, ...], Any]:
    return replacements_in(model.model_options["transformer_options"])


def _watch(model: ModelPatcher) -> None:
    """Ask the host to tell us of clones, of the sampler's start and of every evaluation; once a model."""
    if not model.get_callbacks(CallbacksMP.ON_CLONE, KEY):
        model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, renew)
    if not model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, note_conds)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, note_evaluation)


def renew(_: ModelPatcher, clone: ModelPatcher) -> None:
    """Give a clone patches of its own: other packs call `.add` on them, and newer hosts let clones share objects."""
    for (block, number, *index), patch in list(_replacements(clone).items()):
        if isinstance(patch, SitePatch):
            clone.set_model_attn2_replace(copy.deepcopy(patch), block, number, *index)
