"""The identity branch with everything constant multiplied out: what runs while sampling.

The tokens of an identity do not change while a picture is sampled. So whatever depends on them alone is computed once,
when the Apply node runs, and a step computes only what depends on the pixels. For one site (symbols as in attention.py,
d = width of a head, A = A_text, W_q,h = the rows of W_q that belong to head h):

1. Keys and values. K_id and V_id are products of the tokens with weights: computed once. 1/sqrt(d) goes into the keys,
   all strengths go into the values.
2. The query of W+ Adapter (query "text") is a projection of the text's output, Q_id = A W_q^T. In each head
   Q_id,h K_h^T = A W_q,h^T K_h^T = A (K_h W_q,h)^T, so W_q moves from every pixel into the few keys:
   K'_h = K_h W_q,h. In a step, nothing is left of the C x C projection.
3. Identical tokens without a null key. The softmax over equal scores is uniform, so the attention returns the mean
   value whatever the query is. The site becomes one vector (a "constant"), and a step adds it. This is W+ Adapter's
   unconditional half, whose all-zero code becomes four identical tokens.

A step then does two small matrix products and a softmax at each site:

    attend         scores = K' (h, t, d) x queries (h, d, pixels), softmax over the t tokens
    add_attended   out += M * (attention x V)

What stays on the device are K' and V: under 2 MB for all sites of Stable Diffusion 1.5. No adapter weight is needed
while sampling. `SiteBranch` in attention.py is the readable twin; the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..shapes import check_shape
from ..wplus.codes import WPlus
from .adapter import IdentityAdapter
from .attention import SiteBranch
from .presets import Strengths

Folded = Mapping[str, "FoldedSite"]  # by site name


@dataclass(frozen=True, eq=False)
class FoldedSite:
    """All that one site needs while sampling, for I identities.

    Args:
        query: "host" or "text": what the keys expect. See `AdapterConfig.query`.
        has_null: whether the first key of each head is the null key.
        keys: "host": (I, h, t, d); "text": (I, h * t, C); t = tokens, and one more with a null key.
            None for a constant.
        values: (I, h, n, d), strengths included; (I, C) for a constant.
        score_dtype: data type of keys and scores, if it differs from the values'.
    """

    query: str
    has_null: bool
    keys: Tensor | None
    values: Tensor
    score_dtype: torch.dtype | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_zero(self) -> bool:
        """Whether the site adds nothing, whatever the query. Reads the values: not for use inside a step."""
        return not self.values.any()

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Everything but the values of the tensors."""
        return self.query, self.has_null, None if self.keys is None else self.keys.shape, self.values.shape

    @property
    def num_bytes(self) -> int:
        """Memory of keys and values."""
        return sum(x.numel() * x.element_size() for x in (self.keys, self.values) if x is not None)

    def to(self, device: torch.device, dtype: torch.dtype) -> FoldedSite:
        """The same site on another device, its values in another data type."""
        keys = None if self.keys is None else self.keys.to(device, self.score_dtype or dtype)
        return replace(self, keys=keys, values=self.values.to(device, dtype))


# Once per identity: codes -> folded sites.


def fold_identities(adapter: IdentityAdapter, wplus: WPlus, *, strengths: Strengths) -> tuple[Folded, Folded]:
    """Fold W+ codes into the adapter's sites.

    Args:
        adapter: the adapter.
        wplus: I identities; those that are not `present` add nothing.
        strengths: from `presets.combine`.

    Returns:
        What the conditional and what the unconditional half of guidance gets, by site name. Sites that add nothing are
        left out; the unconditional half is empty unless `strengths.uncond_average` is set.
    """
    # Nodes run in inference mode. A tensor made in it can never take part in a gradient, and guidance may need one.
    with torch.inference_mode(False), torch.no_grad():
        present = torch.tensor(wplus.present, dtype=torch.float32)
        factors = torch.outer(present, strengths.tokens)
        cond = fold(adapter, adapter.tokens(wplus), strengths=factors, sites=strengths.sites)
        if not strengths.uncond_average:
            return cond, {}
        zero = adapter.zero_tokens()
        if present.all():
            return cond, fold(adapter, zero, strengths=factors[:1], sites=strengths.sites)
        zero = zero.expand(len(wplus), -1, -1)
        return cond, fold(adapter, zero, strengths=factors, sites=strengths.sites)


@torch.no_grad()
def fold(
    adapter: IdentityAdapter,
    tokens: Tensor,
    *,
    strengths: Tensor | float = 1.0,
    sites: Mapping[str, float] | None = None,
) -> dict[str, FoldedSite]:
    """Fold tokens into every site of the adapter.

    Args:
        adapter: the adapter; computed on its weights' device, in fp32.
        tokens: the identities' tokens (I, n, W).
        strengths: factor of the values: one for all, one a token (n), or one a token of each identity (I, n).
        sites: a further factor for each site by name; 1 if absent.

    Returns:
        Site name -> folded site, in fp32. Sites that add nothing are left out.
    """
    check_shape(tokens, f"I {adapter.config.num_tokens} {adapter.config.token_width}", name="tokens")
    factors = torch.as_tensor(strengths, dtype=torch.float32).expand(tokens.shape[:2])
    folded = {}
    for spec in adapter.config.sites:
        factor = 1.0 if sites is None else sites.get(spec.name, 1.0)
        if factor != 0.0:
            folded[spec.name] = _fold_site(adapter.branch(spec.name), tokens.float(), factors * factor)
    return {name: site for name, site in folded.items() if not site.is_zero}


def _fold_site(branch: SiteBranch, tokens: Tensor, factors: Tensor) -> FoldedSite:
    query = "host" if branch.to_q is None else "text"
    has_null = branch.null_key is not None
    v = (tokens @ branch.to_v.weight.float().T) * factors.to(tokens)[..., None]
    if not has_null and bool((tokens == tokens[:, :1]).all()):
        return FoldedSite(query, has_null, None, v.mean(dim=1))
    k = tokens @ branch.to_k.weight.float().T
    if branch.null_key is not None:
        k = torch.cat([repeat(branch.null_key.float(), "c -> i 1 c", i=len(k)), k], dim=1)
    k = rearrange(k, "i t (h d) -> i h t d", h=branch.heads)
    k = k / math.sqrt(k.shape[-1])
    if branch.to_q is not None:
        w_q = rearrange(branch.to_q.weight.float(), "(h d) c -> h d c", h=branch.heads)
        k = rearrange(k @ w_q, "i h t c -> i (h t) c")
    return FoldedSite(
        query, has_null, k.contiguous(), rearrange(v, "i n (h d) -> i h n d", h=branch.heads).contiguous()
    )


# Once per site and step.


class Attended(NamedTuple):
    """How the pixels of some rows attend to one identity: the step before its values are added.

    Args:
        rows: which rows of the batch.
        attention: (h, t, rows * N), or None for a constant.
        identity: which of the site's identities.
    """

    rows: slice
    attention: Tensor | None
    identity: int


def attend(
    site: FoldedSite, *, host_query: Tensor, text_output: Tensor, pictures: Sequence[int] | None = None
) -> list[Attended]:
    """Let every pixel attend to its identity. Picture i gets identity i modulo I.

    Args:
        site: on the device of the queries, its values in their data type.
        host_query: Q of the site (B, N, C), heads merged.
        text_output: A_text (B, N, C), heads merged.
        pictures: which picture each row of the batch belongs to; None: row i is picture i.
    """
    source = host_query if site.query == "host" else text_output
    batch, identities = source.shape[0], len(site)
    if identities == 1:  # one identity for all: one product over the pixels of all rows
        return [Attended(slice(0, batch), _probabilities(site, source, 0), 0)]
    attended = []
    for row in range(batch):
        identity = (row if pictures is None else pictures[row]) % identities
        rows = slice(row, row + 1)
        attended.append(Attended(rows, _probabilities(site, source[rows], identity), identity))
    return attended


# From here on views are written by hand instead of with `rearrange`: it takes 10 to 20 us a pattern between two large
# operations, at every site of every step.
def _probabilities(site: FoldedSite, source: Tensor, identity: int) -> Tensor | None:
    """(h, t, B * N): softmax over the tokens. The pixels are the last dimension, as in attention.py."""
    if site.keys is None:
        return None
    keys = site.keys[identity]
    heads, _, width = site.values.shape[1:]
    if source.dtype != keys.dtype:
        source = source.to(keys.dtype)
    if site.query == "host":
        scores = torch.bmm(keys, source.reshape(-1, heads, width).permute(1, 2, 0))  # b n (h d) -> h d (b n)
    else:
        # Pixels times keys: the transposed product takes a quarter longer in MKL with two threads.
        scores = F.linear(source.reshape(-1, source.shape[-1]), keys).t()
        scores = scores.view(heads, -1, scores.shape[-1])  # (h t) pixels -> h t pixels
    attention = scores.softmax(dim=1)
    return attention if attention.dtype == site.values.dtype else attention.to(site.values.dtype)


def add_attended(out: Tensor, site: FoldedSite, *, attended: list[Attended], mask: Tensor | None = None) -> None:
    """Add the identities' values to `out` (B, N, C) in place.

    Args:
        out: contiguous, and the caller's own; what `to_out` will take.
        site: the site that `attended` came from.
        attended: from `attend`.
        mask: M (1 or B, N), or None for one everywhere.
    """
    for step in attended:
        here = mask if mask is None or mask.shape[0] == 1 else mask[step.rows]
        values = site.values[step.identity]
        if step.attention is None:
            # Not `out[rows] += ...`: Python would then copy the sum onto itself.
            out[step.rows].add_(values if here is None else here[..., None] * values)
            continue
        attention = step.attention[:, 1:] if site.has_null else step.attention  # the null key's value is zero
        if here is not None:
            attention = rearrange(attention, "h n (b pixels) -> h n b pixels", pixels=here.shape[-1]) * here
            attention = rearrange(attention, "h n b pixels -> h n (b pixels)")
        if torch.compiler.is_compiling():  # functionalised code cannot write through a transposed view
            added = attention.transpose(1, 2) @ values
            out[step.rows].add_(rearrange(added, "h (b n) d -> b n (h d)", n=out.shape[1]))
            continue
        heads, _, width = values.shape
        target = out[step.rows].view(-1, heads, width).transpose(0, 1)  # b n (h d) -> h (b n) d
        target.baddbmm_(attention.transpose(1, 2), values)


def localisation_map(attended: list[Attended], *, pixels: int) -> Tensor:
    """1 - p(null), averaged over the heads: (B, N) in row order. Only for sites with a null key."""
    maps = [1.0 - step.attention[:, 0].float().mean(dim=0) for step in attended if step.attention is not None]
    return rearrange(torch.cat(maps), "(b n) -> b n", n=pixels)
