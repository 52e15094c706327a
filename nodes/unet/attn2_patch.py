"""What runs inside a step: the patch that adds identities at one cross-attention of ComfyUI's UNet.

ComfyUI calls it in place of the text attention, after to_q, to_k and to_v and before to_out:

    text_output = the text attention, or another pack's patch that was there before
    for each chunk of the batch, for each identity that gets something in it:
        result += M * strength * A_id          folding.attend and folding.add_attended
    result += what other packs' callbacks add

A chunk is the part of the batch that belongs to one prompt: usually the conditional and the unconditional half.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...pidiff_core.adapter.folding import Attended, FoldedSite, add_attended, attend
from ...pidiff_core.adapter.maps import site_map
from ...pidiff_core.errors import PIDiffError
from .applied_identity import COND, AppliedIdentity
from .run_state import Conditioning, RunState, UNetCall, read_call, warn_once

Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
Callback = tuple[Callable[..., Tensor], Mapping[str, Any]]

_parameters = inspect.signature(optimized_attention).parameters
_TAKES_OPTIONS = "transformer_options" in _parameters or any(p.kind is p.VAR_KEYWORD for p in _parameters.values())


class SitePatch:
    """The patch at one site.

    Identities are shared between copies and do not change. The list of callbacks belongs to one model alone: every
    clone of a model gets copies of its patches (see `apply.renew`).

    Args:
        name: the site.
        identities: added to the text output. They all attend from the same text output, so their order does not matter.
        inner: another pack's patch that was on the site before, or None for the host's own attention.
        callbacks: what other packs have added.
    """

    def __init__(
        self,
        name: str,
        identities: Sequence[AppliedIdentity],
        *,
        inner: Replacement | None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.name, self.identities, self.inner = name, tuple(identities), inner
        self.callbacks = list(callbacks)

    def __deepcopy__(self, _: Any) -> SitePatch:
        return SitePatch(self.name, self.identities, inner=self.inner, callbacks=self.callbacks)

    def add(self, callback: Callable[..., Tensor], **kwargs: Any) -> None:
        """The contract of IPAdapter_plus and its relatives: `callback(out, q, k, v, extra_options, **kwargs)` returns
        what to add to `out`, while sigma is between kwargs["sigma_end"] and kwargs["sigma_start"]."""
        self.callbacks.append((callback, kwargs))

    def set_new_condition(self, *_: Any, **__: Any) -> None:
        """The contract of packs before `.add`: they bring weights, but nothing that could run them."""
        raise PIDiffError(
            "An older identity pack (IPAdapter, InstantID) was applied after PIDiff and cannot share the model that "
            "way. Put its node before Apply Identity Adapter, or update that pack."
        )

    def to(self, target: Any) -> SitePatch:
        """ComfyUI announces a device or a type; identities follow their queries, another pack's patch may not."""
        move = getattr(self.inner, "to", None)
        if move is not None:
            self.inner = move(target)
        return self

    def models(self) -> list[Any]:
        """Models that ComfyUI should load with this patch: those of the patch inside."""
        models = getattr(self.inner, "models", None)
        return [] if models is None else models()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """q (B, N, C), k and v (B, L, C), heads merged -> what `to_out` takes (B, N, C)."""
        state = RunState.of(extra_options)
        call = state.call
        if call is None:  # the UNet was called without ComfyUI's sampler
            call = read_call(extra_options, self.identities)
        acting = [identity for identity in self.identities if call.acts.get(identity.order, False)]
        if self.inner is None:
            base = text_attention(q, k, v, extra_options)
        else:
            base = self.inner(q, k, v, extra_options).to(q.dtype)  # another pack may answer in a type of its own
        text_output = base
        if self.inner is not None and any(identity.attends_from_text for identity in acting):
            # W+ Adapter's queries come from the text alone: what another pack adds to it must not change them.
            text_output = text_attention(q, k, v, extra_options)
        is_ours = self.inner is None and not self.callbacks and "optimized_attention_override" not in extra_options
        result = self._with_identities(
            acting, base, q=q, text_output=text_output, call=call, options=extra_options, is_ours=is_ours
        )
        for callback, kwargs in self.callbacks:
            if self.in_range(call.noise_level, kwargs):
                added = callback(base, q, k, v, extra_options, **kwargs)
                base, result = base + added, result + added
        return result

    def _with_identities(
        self,
        acting: Sequence[AppliedIdentity],
        base: Tensor,
        *,
        q: Tensor,
        text_output: Tensor,
        call: UNetCall,
        options: Mapping[str, Any],
        is_ours: bool,
    ) -> Tensor:
        """`base` with the identities added to the rows of their halves; `base` itself if there is nothing to add."""
        if call.num_rows not in (None, len(q)):
            warn_once(
                "Another node changes the batch inside the UNet's attention (regional prompts do), and PIDiff cannot "
                "tell which row belongs to which prompt: it adds no identity there. Use ComfyUI's own Conditioning "
                "(Set Area) or (Set Mask) nodes instead."
            )
            return base
        rows = len(q) // len(call.chunks)
        result: Tensor | None = None
        for number, chunk in enumerate(call.chunks):
            part = slice(number * rows, (number + 1) * rows)
            # All identities attend before one is added: `result` may be the text output that they read.
            added = []
            for identity in acting:
                site = identity.site(self.name, chunk.half, like=q)
                if site is not None:
                    attended, mask = _attend(
                        identity, site, q=q[part], text=text_output[part], chunk=chunk, call=call, options=options
                    )
                    added.append((site, attended, mask))
            if added and result is None:
                result = writable(base, is_ours=is_ours)
            for site, attended, mask in added:
                assert result is not None
                add_attended(result[part], site, attended=attended, mask=mask)
        return base if result is None else result

    @staticmethod
    def in_range(noise_level: float | None, kwargs: Mapping[str, Any]) -> bool:
        """Whether another pack's callback is asked at this noise level."""
        return noise_level is None or kwargs.get("sigma_end", 0.0) <= noise_level <= kwargs.get("sigma_start", math.inf)


def _attend(
    identity: AppliedIdentity,
    site: FoldedSite,
    *,
    q: Tensor,
    text: Tensor,
    chunk: Conditioning,
    call: UNetCall,
    options: Mapping[str, Any],
) -> tuple[list[Attended], Tensor | None]:
    """How the pixels of one chunk attend to one identity, and M (1 or B, N), None for 1; maps are kept if wanted."""
    state = RunState.of(options)
    attended = attend(site, host_query=q, text_output=text, pictures=call.pictures)
    is_placed = state.arrangement is not None and state.arrangement.places(identity)
    is_recorded = state.recorder is not None and state.recorder.records(identity)
    if not (identity.has_mask or is_placed or is_recorded):
        return attended, None
    size = _site_size(q, options)
    mask = identity.mask(len(q), size, area=chunk.area, like=q, pictures=call.pictures)
    if state.arrangement is not None and is_placed:
        mask = state.arrangement.mask(identity, size, area=chunk.area, like=q, rows=call.rows)
    if chunk.half == COND and (is_placed or is_recorded):
        seen = site_map(site, attended, text_output=text)
        if state.arrangement is not None and is_placed:
            state.arrangement.add(seen, size, area=chunk.area, rows=call.rows)
        if state.recorder is not None and is_recorded:
            seen = seen if mask is None else seen * mask.float()
            state.recorder.add(identity, seen, size, area=chunk.area, rows=call.rows)
    return attended, mask


def writable(base: Tensor, *, is_ours: bool) -> Tensor:
    """A contiguous tensor with the values of `base` (B, N, C) that may be written to.

    It is `base` itself if nothing but the calling hook holds it, else a copy. The copies of all sites would cost more
    than the identity: 70 to 80 ms of a step of 24 s (0.3 %) at 512 px, batch 2, in fp32 on one CPU core, most of it for
    fresh memory.

    Args:
        base: the text attention's output.
        is_ours: whether the hook has called the host's own attention for it, and hands it to nothing else.
    """
    if is_ours and base.is_contiguous() and not base.requires_grad:
        return base
    return base.clone(memory_format=torch.contiguous_format)


def text_attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """A_text (B, N, C), called as the host's own CrossAttention does; older hosts take no options."""
    options = {"transformer_options": extra_options} if _TAKES_OPTIONS else {}
    precision = extra_options.get("attn_precision")
    return optimized_attention(q, k, v, extra_options["n_heads"], attn_precision=precision, **options)


def _site_size(q: Tensor, extra_options: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the feature map whose pixels the queries are."""
    pixels = q.shape[1]
    shape = extra_options.get("activations_shape")
    if shape is not None and shape[-2] * shape[-1] == pixels:
        return int(shape[-2]), int(shape[-1])
    height, width = (extra_options.get("original_shape") or (1, 1))[-2:]
    return _nearest_size(pixels, height / width)


@functools.lru_cache(maxsize=64)
def _nearest_size(pixels: int, ratio: float) -> tuple[int, int]:
    """For a map that another pack has cut up: the division of its pixels that comes nearest to height / width."""
    ideal = math.sqrt(pixels * ratio)
    small = [n for n in range(1, math.isqrt(pixels) + 1) if pixels % n == 0]
    rows = min((*small, *(pixels // n for n in small)), key=lambda n: abs(math.log(n / ideal)))
    return rows, pixels // rows
