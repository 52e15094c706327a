"""What runs inside a step: the patch that draws identities at one site of ComfyUI's UNet."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..pidiff_core.adapter.folding import FoldedSite, add_attended, add_constant, attend
from ..pidiff_core.errors import PIDiffError
from .evaluation import EVALUATION_KEY, Evaluation, evaluation_of
from .identity import COND, UNCOND, Identity
from .watch import WATCH_KEY, Watch

Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
Callback = tuple[Callable[..., Tensor], Mapping[str, Any]]
Drawn = Sequence[tuple[Identity, FoldedSite]]

_parameters = inspect.signature(optimized_attention).parameters
_TAKES_OPTIONS = "transformer_options" in _parameters or any(p.kind is p.VAR_KEYWORD for p in _parameters.values())


class SitePatch:
    """What ComfyUI calls in place of the cross-attention at one site.

    Identities and masks are shared between copies and never change. The list of callbacks belongs to one model alone:
    every clone of a model gets copies of its patches (see `patching.renew`).

    Args:
        name: the site.
        identities: what is added; all of them attend from the same text output, so their order does not matter.
        inner: another pack's patch that was on the site before, or None for the host's own attention.
        callbacks: what other packs have added.
    """

    def __init__(
        self,
        name: str,
        identities: Sequence[Identity],
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
            "way. Put its node before ApplyIdentityAdapter, or update that pack."
        )

    def to(self, target: Any) -> SitePatch:
        """ComfyUI announces a device or a type; the identities follow their queries, another pack's patch may not."""
        if hasattr(self.inner, "to"):
            self.inner = self.inner.to(target)
        return self

    def models(self) -> list[Any]:
        """Models that ComfyUI should load with this patch: those of the patch inside."""
        return self.inner.models() if hasattr(self.inner, "models") else []

    def structure(self, noise_level: float | None) -> tuple[Any, ...]:
        """What code compiled for it depends on, apart from its identities and the values in tensors."""
        heard = tuple(self._in_range(noise_level, kwargs) for _, kwargs in self.callbacks)
        return self.name, tuple(identity.order for identity in self.identities), type(self.inner), heard

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """q (B, N, C), k and v (B, L, C), heads merged -> what `to_out` takes (B, N, C)."""
        evaluation: Evaluation | None = extra_options.get(EVALUATION_KEY)
        if evaluation is None or any(identity.order not in evaluation.acts for identity in self.identities):
            evaluation = evaluation_of(extra_options, [self])
        acting = [identity for identity in self.identities if evaluation.acts[identity.order]]
        drawn = self._drawn(acting, q, evaluation)
        alone = self.inner is None and not self.callbacks and "optimized_attention_override" not in extra_options
        text_values = v
        if alone and WATCH_KEY not in extra_options:
            text_values, drawn = _constants_to_values(v, drawn)
        if self.inner is None:
            base = _host_attention(q, k, text_values, extra_options)
        else:
            base = self.inner(q, k, v, extra_options)
        text_output = base = base.to(q.dtype)  # another pack may answer in a type of its own
        if self.inner is not None and any(identity.attends_from_text for identity in acting):
            # W+ Adapter's queries come from the text alone: what another pack adds to it must not turn them.
            text_output = _host_attention(q, k, v, extra_options)
        # What nobody else holds may be changed where it is: a copy of it costs as much as the whole branch.
        own = alone and base.is_contiguous() and not base.requires_grad
        result = self._draw(
            drawn, base, q=q, text_output=text_output, evaluation=evaluation, extra_options=extra_options, in_place=own
        )
        for callback, kwargs in self.callbacks:
            if self._in_range(evaluation.noise_level, kwargs):
                added = callback(base, q, k, v, extra_options, **kwargs)
                base, result = base + added, result + added
        return result

    def _drawn(self, acting: Sequence[Identity], q: Tensor, evaluation: Evaluation) -> list[Drawn]:
        """Who is drawn in each chunk of the batch."""
        halves = [COND if note.is_positive else UNCOND for note in evaluation.chunks]
        drawn = []
        for half in halves:
            sites = ((identity, identity.site(self.name, half, like=q)) for identity in acting)
            drawn.append([(identity, site) for identity, site in sites if site is not None])
        return drawn

    def _draw(
        self,
        drawn: Sequence[Drawn],
        base: Tensor,
        *,
        q: Tensor,
        text_output: Tensor,
        evaluation: Evaluation,
        extra_options: Mapping[str, Any],
        in_place: bool,
    ) -> Tensor:
        """`base` with the identities added to the rows of their halves."""
        watch: Watch | None = extra_options.get(WATCH_KEY)
        rows = len(q) // len(evaluation.chunks)
        result: Tensor | None = None
        for chunk, (note, here) in enumerate(zip(evaluation.chunks, drawn)):
            part = slice(chunk * rows, (chunk + 1) * rows)
            steps = []
            for identity, site in here:
                attended = attend(site, host_query=q[part], text_output=text_output[part])
                mask = None
                if identity.has_mask or watch is not None:
                    size = _site_size(q, extra_options)
                    mask = identity.mask(rows, size, area=note.area, like=q)
                if watch is not None:
                    mask = watch.place(
                        identity,
                        site,
                        attended,
                        text_output=text_output[part],
                        size=size,
                        area=note.area,
                        mask=mask,
                        is_positive=note.is_positive,
                    )
                steps.append((site, attended, mask))
            if steps and result is None:
                result = base if in_place else base.clone(memory_format=torch.contiguous_format)
            for site, attended, mask in steps:
                assert result is not None
                add_attended(result[part], site, attended=attended, mask=mask)
        return base if result is None else result

    @staticmethod
    def _in_range(noise_level: float | None, kwargs: Mapping[str, Any]) -> bool:
        return noise_level is None or kwargs.get("sigma_end", 0.0) <= noise_level <= kwargs.get("sigma_start", math.inf)


def _constants_to_values(v: Tensor, drawn: Sequence[Drawn]) -> tuple[Tensor, Sequence[Drawn]]:
    """Constants on the text's values v (B, L, C), where nobody else asks for the text's output: a pass over the text's
    tokens in place of one over the pixels. The values with them, and who is still to be drawn."""
    rows = len(v) // len(drawn)
    result, others = v, []
    for chunk, here in enumerate(drawn):
        if any(site.keys is not None and site.query == "text" for _, site in here):
            others.append(here)
            continue
        constants = [site for identity, site in here if site.keys is None and not identity.has_mask]
        if constants and result is v:
            result = v.clone()
        for site in constants:
            add_constant(result[chunk * rows : (chunk + 1) * rows], site)
        others.append([(identity, site) for identity, site in here if site not in constants])
    return result, others


def _host_attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """The text attention, called as the host's own CrossAttention does; older hosts take no options."""
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
