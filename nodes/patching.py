"""The identity in ComfyUI's UNet: the only code that touches ModelPatcher.

Each Apply makes one immutable `Identity` and puts one small `SitePatch` on every site. A SitePatch wraps whatever is on
the site already, so that several identities, and other packs, add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..pidiff_core.adapter.adapter import IdentityAdapter
from ..pidiff_core.adapter.folding import FoldedSite, add_attended, attend, fold, level_strengths
from ..pidiff_core.adapter.sites import Site, SiteSpec
from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.shapes import check_shape
from ..pidiff_core.wplus import WPlus

Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
COND, UNCOND = 0, 1  # the host's numbers in cond_or_uncond


@dataclass(frozen=True)
class ApplyOptions:
    """What the user sets on ApplyIdentityAdapter."""

    strength: float = 1.0
    start_percent: float = 0.0  # of the sampling, as ComfyUI counts it
    end_percent: float = 1.0
    levels: Mapping[str, float] = field(default_factory=dict)  # coarse, medium, fine; 1 where absent
    uncond_average: bool = False  # W+ Adapter: the unconditional half gets the tokens of an all-zero code

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
        wplus: the identities (I, S, D).
        options: see `ApplyOptions`.
        mask_bhw: where in the picture the identity may act, (H, W) or (B, H, W) in [0, 1], any size.

    Raises:
        PIDiffError: the model is no UNet with cross-attention, or adapter, codes and model do not fit together.
    """
    patched = model.clone()
    found = unet_sites(model)
    check_fit(adapter, found)
    mask = _as_mask(mask_bhw)
    if options.does_nothing or (mask is not None and not mask.any()):
        return patched
    if mask is not None and bool((mask == 1).all()):
        mask = None
    factors = level_strengths(adapter, options.levels) * options.strength
    sites = fold(adapter, adapter.tokens(wplus), strengths=factors)
    uncond = fold(adapter, adapter.zero_tokens(), strengths=factors) if options.uncond_average else {}
    sampling = model.get_model_object("model_sampling")
    identity = Identity(
        sites=sites,
        uncond_sites=uncond,
        mask=mask,
        sigma_start=float(sampling.percent_to_sigma(options.start_percent)),
        sigma_end=float(sampling.percent_to_sigma(options.end_percent)),
        always=options.start_percent <= 0 and options.end_percent >= 1,
    )
    for name in dict.fromkeys([*sites, *uncond]):
        _put(patched, Site.from_name(name), found[name], identity)
    return patched


@dataclass(frozen=True, eq=False)
class FoundSite:
    """A cross-attention of the host's UNet."""

    spec: SiteSpec
    context_width: int
    alone: bool  # the only transformer layer of its block: other packs then name it without its index


def unet_sites(model: ModelPatcher) -> dict[str, FoundSite]:
    """Every cross-attention of the model's UNet by site name.

    Raises:
        PIDiffError: the model has no such UNet.
    """
    unet = model.get_model_object("diffusion_model")
    blocks = [("input", getattr(unet, "input_blocks", [])), ("output", getattr(unet, "output_blocks", []))]
    entries = [(block, number, entry) for block, part in blocks for number, entry in enumerate(part)]
    if hasattr(unet, "middle_block"):
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
                found[name] = FoundSite(spec, attention.to_k.in_features, alone=len(transformers) == 1)
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


class Identity:
    """One Apply: folded sites, mask and range. Its only changes are caches, which hold what can be made again."""

    def __init__(
        self,
        *,
        sites: Mapping[str, FoldedSite],
        uncond_sites: Mapping[str, FoldedSite],
        mask: Tensor | None,
        sigma_start: float,
        sigma_end: float,
        always: bool,
    ) -> None:
        self._halves = {COND: dict(sites), UNCOND: dict(uncond_sites)}
        self._mask = mask
        self._range = (sigma_end, sigma_start)
        self._always = always
        self._placed: dict[tuple[Any, ...], FoldedSite] = {}
        self._masks: dict[tuple[Any, ...], Tensor] = {}
        self._seen: tuple[Any, bool] = (None, False)

    def __deepcopy__(self, _: Any) -> Identity:
        return self  # clones of a model share it: some hosts deep-copy their options

    def acts_at(self, sigmas: Tensor | None) -> bool:
        """Whether a step at this noise level is inside the range: one read of the device a step, not one a site."""
        if self._always or sigmas is None:
            return True
        if self._seen[0] is not sigmas:
            low, high = self._range
            self._seen = (sigmas, low <= float(sigmas.flatten()[0]) <= high)
        return self._seen[1]

    def site(self, name: str, half: int, *, like: Tensor) -> FoldedSite | None:
        """The folded site on the device and in the type of `like`; None where nothing is added."""
        key = (name, half, like.device, like.dtype)
        if key not in self._placed:
            folded = self._halves[half].get(name)
            if folded is None:
                return None
            self._placed[key] = folded.to(like.device, like.dtype)
        return self._placed[key]

    def mask(self, rows: int, size: tuple[int, int], *, like: Tensor) -> Tensor | None:
        """The mask (1 or rows, N) at a site's resolution; resized once per size."""
        if self._mask is None:
            return None
        key = (rows, size, like.device, like.dtype)
        if key not in self._masks:
            small = F.interpolate(self._mask[:, None], size, mode="bilinear", antialias=True)[:, 0].clamp(0.0, 1.0)
            if len(small) > 1:  # one mask a picture, the last one for what is left
                small = small[torch.arange(rows).clamp_max(len(small) - 1)]
            self._masks[key] = small.flatten(1).to(like.device, like.dtype)
        return self._masks[key]


class SitePatch:
    """What ComfyUI calls in place of the cross-attention at one site.

    Args:
        identity: what is added.
        name: the site.
        inner: what was on the site before, or None for the host's own attention.
    """

    def __init__(self, identity: Identity, name: str, *, inner: Replacement | None) -> None:
        self.identity, self.name, self.inner = identity, name, inner
        self.callbacks: list[tuple[Callable[..., Any], dict[str, Any]]] = []

    def __deepcopy__(self, memo: Any) -> SitePatch:
        copy = SitePatch(self.identity, self.name, inner=self.inner)
        copy.callbacks = list(self.callbacks)
        return copy

    def add(self, callback: Callable[..., Any], **kwargs: Any) -> None:
        """The contract of IPAdapter_plus and its relatives: `callback(out, q, k, v, extra_options, **kwargs)` returns
        what to add to `out`, while sigma is between kwargs["sigma_end"] and kwargs["sigma_start"]."""
        self.callbacks.append((callback, kwargs))

    set_new_condition = add

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """q (B, N, C), k and v (B, L, C), heads merged -> what `to_out` takes (B, N, C)."""
        if self.inner is None:
            heads, precision = extra_options["n_heads"], extra_options.get("attn_precision")
            out = optimized_attention(q, k, v, heads, attn_precision=precision)
        else:
            out = self.inner(q, k, v, extra_options)
        result = out
        if self.identity.acts_at(extra_options.get("sigmas")):
            result = self._with_identity(q, out, extra_options)
        for callback, kwargs in self.callbacks:
            if _in_range(extra_options.get("sigmas"), kwargs):
                result = result + callback(out, q, k, v, extra_options, **kwargs)
        return result

    def _with_identity(self, q: Tensor, text_output: Tensor, extra_options: dict[str, Any]) -> Tensor:
        halves: Sequence[int] = extra_options.get("cond_or_uncond") or [COND]
        rows = len(q) // len(halves)
        result = text_output
        for chunk, half in enumerate(halves):
            site = self.identity.site(self.name, half, like=q)
            if site is None:
                continue
            if result is text_output:  # the first chunk that changes anything: what was given stays as it is
                result = text_output.clone(memory_format=torch.contiguous_format)
            part = slice(chunk * rows, (chunk + 1) * rows)
            mask = self.identity.mask(rows, _site_size(q, extra_options), like=q)
            attended = attend(site, host_query=q[part], text_output=text_output[part])
            add_attended(result[part], site, attended=attended, mask=mask)
        return result


def _site_size(q: Tensor, extra_options: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the feature map whose pixels the queries are."""
    shape = extra_options.get("activations_shape")
    if shape is not None and shape[-2] * shape[-1] == q.shape[1]:
        return int(shape[-2]), int(shape[-1])
    height, width = extra_options["original_shape"][-2:]
    scale = math.sqrt(height * width / q.shape[1])
    rows = max(1, math.ceil(height / scale))
    return rows, q.shape[1] // rows


def _in_range(sigmas: Tensor | None, kwargs: Mapping[str, Any]) -> bool:
    if sigmas is None:
        return True
    sigma = float(sigmas.flatten()[0])
    return kwargs.get("sigma_end", 0.0) <= sigma <= kwargs.get("sigma_start", math.inf)


def _as_mask(mask_bhw: Tensor | None) -> Tensor | None:
    if mask_bhw is None:
        return None
    mask = mask_bhw if mask_bhw.ndim == 3 else mask_bhw[None]
    check_shape(mask, "B H W", name="the attention mask")
    if not torch.isfinite(mask).all():
        raise PIDiffError("The attention mask holds values that are not finite.")
    return mask.detach().float().cpu().clamp(0.0, 1.0)


def _put(model: ModelPatcher, site: Site, found: FoundSite, identity: Identity) -> None:
    """Place the identity's patch on a site, around what is there.

    ComfyUI looks for (block, number, index) first, then for (block, number). Where the block has one layer only, the
    short key is used, as other packs do: they would otherwise not see each other.
    """
    there = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    long_key, short_key = (site.block, site.number, site.index), (site.block, site.number)
    short = found.alone and long_key not in there
    inner = there.get(long_key, there.get(short_key))
    patch = SitePatch(identity, site.name, inner=inner)
    model.set_model_attn2_replace(patch, site.block, site.number, None if short else site.index)
