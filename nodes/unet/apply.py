"""Put an identity on a model: the only code that changes a ModelPatcher.

Each Apply makes one `AppliedIdentity` and puts one small `SitePatch` on every site. A patch takes in the identities,
and wraps any other pack's patch, that are on the site already, so that several identities and other packs add up.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...pidiff_core.adapter.adapter import IdentityAdapter
from ...pidiff_core.adapter.folding import Folded, fold_identities
from ...pidiff_core.adapter.presets import ApplyOptions, combine
from ...pidiff_core.adapter.sites import Site
from ...pidiff_core.errors import PIDiffError
from ...pidiff_core.shapes import check_shape
from ...pidiff_core.wplus.codes import WPlus
from .applied_identity import AppliedIdentity
from .attn2_patch import SitePatch
from .run_state import KEY, RunState
from .sites import FoundSite, fitting_sites
from .wrappers import begin_call, start_run


def apply_identity(
    model: ModelPatcher,
    adapter: IdentityAdapter,
    wplus: WPlus,
    *,
    options: ApplyOptions,
    mask_bhw: Tensor | None = None,
) -> ModelPatcher:
    """A clone of `model` that draws these identities; picture i of a batch gets identity i modulo their number.

    Args:
        model: a Stable Diffusion model; it is not changed.
        adapter: trained for this UNet's widths.
        wplus: the identities (I, S, D); those that are not `present` add nothing.
        options: see `ApplyOptions`.
        mask_bhw: where in the picture the identity may act, (H, W) or (B, H, W) in [0, 1], any size.

    Raises:
        PIDiffError: the model has no UNet with cross-attention, or adapter, codes and model do not fit together.
    """
    patched = model.clone()
    found = fitting_sites(model, adapter)
    strengths = combine(options, adapter.config)
    mask = _checked_mask(mask_bhw)
    if mask is not None and bool((mask == 1).all()):
        mask = None
    in_row = options.arrangement == "left to right" and mask is None
    state = run_state_of(model)
    order = len(state.in_row)
    state = replace(state, in_row=(*state.in_row, in_row))
    sites, uncond_sites = {}, {}
    if not strengths.is_zero and (mask is None or mask.any()):
        folded = fold_identities(adapter, wplus, strengths=strengths)
        sites, uncond_sites = (_with_precision(half, found) for half in folded)
    if sites or uncond_sites:
        sampling = model.get_model_object("model_sampling")
        percents = (max(strengths.start_percent, strengths.skip_steps), strengths.end_percent)
        start, end = (float(sampling.percent_to_sigma(percent)) for percent in percents)
        identity = AppliedIdentity(
            sites=sites,
            uncond_sites=uncond_sites,
            mask=mask,
            start_percent=strengths.start_percent,
            end_percent=strengths.end_percent,
            sigma_range=(end, start),
            skip_steps=strengths.skip_steps,
            order=order,
            in_row=in_row,
        )
        names = list(dict.fromkeys([*sites, *uncond_sites]))
        keys = [_put(patched, Site.from_name(name), found[name], identity) for name in names]
        state = replace(
            state, identities=(*state.identities, identity), keys=tuple(dict.fromkeys([*state.keys, *keys]))
        )
        _ask_to_be_called(patched)
    patched.model_options["transformer_options"][KEY] = state
    return patched


def run_state_of(model: ModelPatcher) -> RunState:
    """What the Apply nodes before have left in a model."""
    return RunState.of(model.model_options["transformer_options"])


def _with_precision(half: Folded, found: Mapping[str, FoundSite]) -> Folded:
    return {name: replace(site, score_dtype=found[name].precision) for name, site in half.items()}


def _checked_mask(mask_bhw: Tensor | None) -> Tensor | None:
    if mask_bhw is None:
        return None
    mask = mask_bhw if mask_bhw.ndim == 3 else mask_bhw[None]
    check_shape(mask, "B H W", name="the attention mask")
    if not torch.isfinite(mask).all():
        raise PIDiffError(
            "The attention mask holds values that are not finite. Connect a mask with values from 0 to 1."
        )
    with torch.inference_mode(False):
        return mask.detach().float().cpu().clamp(0.0, 1.0)


def _put(model: ModelPatcher, site: Site, found: FoundSite, identity: AppliedIdentity) -> tuple[Any, ...]:
    """Put the identity on a site: into our own patch if there is one, else around what is there. The host's key.

    ComfyUI looks for (block, number, index) first, then for (block, number). If the block has one layer only, the short
    key is used, as other packs do: they would otherwise not see each other.
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
    return short_key if index is None else long_key


def _replacements(model: ModelPatcher) -> dict[tuple[Any, ...], Any]:
    """What replaces cross-attentions in a model, by the host's keys."""
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def _ask_to_be_called(model: ModelPatcher) -> None:
    """Have the host call us at clones, at the sampler's start and around every evaluation; once a model."""
    if not model.get_callbacks(CallbacksMP.ON_CLONE, KEY):
        model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, renew)
    if not model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, start_run)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, begin_call)


def renew(_: ModelPatcher, clone: ModelPatcher) -> None:
    """Give a clone patches of its own: other packs call `.add` on them, and newer hosts let clones share objects."""
    there = _replacements(clone)
    for key in run_state_of(clone).keys:
        patch = there.get(key)
        if isinstance(patch, SitePatch):
            clone.set_model_attn2_replace(copy.deepcopy(patch), *key)
