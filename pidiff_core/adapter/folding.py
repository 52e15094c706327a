"""The identity branch with everything constant multiplied out: what runs while sampling.

Tokens do not change during sampling, so keys and values are computed once, when the node runs:

- K_id and V_id, with 1/sqrt(d) folded into the keys and the strengths of levels and node folded into the values.
- With Q_id = W_q A_text (query "text"), per head h: (A W_q,h^T) K_h^T = A (K_h W_q,h)^T. The projection moves from
  every pixel into the few keys: K'_h = K_h W_q,h.
- Tokens that are all the same, without a null key, attend to a constant: it is added, never attended, and where nothing
  else happens to the text's attention it is added to the text's values. That is W+ Adapter's unconditional half, whose
  zero code gives four identical tokens.

`SiteBranch` in attention.py is the readable twin; the tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..errors import PIDiffError
from ..products import linear
from ..shapes import check_shape
from .adapter import IdentityAdapter
from .attention import SiteBranch


@dataclass(frozen=True, eq=False)
class FoldedSite:
    """All that one site needs while sampling, for I identities.

    Args:
        query: "host" or "text": what the keys expect. See `AdapterConfig.query`.
        has_null: whether the first key of each head is the null key.
        keys: "host": (I, h, t, d); "text": (I, h * t, C); t = tokens, and one more with a null key.
            None for a constant.
        values: (I, h, n, d), strengths included; (I, C) for a constant.
        score_dtype: the type of keys and scores, where they need another one than the values.
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
        """The same on another device, its values in another type."""
        keys = None if self.keys is None else self.keys.to(device, self.score_dtype or dtype)
        return replace(self, keys=keys, values=self.values.to(device, dtype))


def level_strengths(adapter: IdentityAdapter, strengths: Mapping[str, float]) -> Tensor:
    """One factor a token (n) from one a level; levels that are not named keep 1.

    Raises:
        PIDiffError: a level that does not exist.
    """
    levels = adapter.config.token_levels
    if unknown := sorted(set(strengths) - set(levels)):
        raise PIDiffError(f"There is no level {', '.join(unknown)}: the levels are {', '.join(levels)}.")
    factors = torch.ones(adapter.config.num_tokens)
    for level, strength in strengths.items():
        factors[levels[level]] = strength
    return factors


@torch.no_grad()
def fold(
    adapter: IdentityAdapter,
    tokens: Tensor,
    *,
    strengths: Tensor | float = 1.0,
    sites: Mapping[str, float] | None = None,
) -> dict[str, FoldedSite]:
    """Fold identities into every site of the adapter.

    Args:
        adapter: the adapter; computed where its weights are, in fp32.
        tokens: the identities' tokens (I, n, W).
        strengths: factor of the values: one for all, one a token (n), or one a token of each identity (I, n).
        sites: a further factor for each site by name; 1 where absent.

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


def attend(site: FoldedSite, *, host_query: Tensor, text_output: Tensor) -> list[Attended]:
    """Let every pixel attend to its identity. Row i of the batch gets identity i modulo I.

    Args:
        site: on the device of the queries, its values in their type.
        host_query: Q of the site (B, N, C), heads merged.
        text_output: A_text (B, N, C), heads merged.
    """
    source = host_query if site.query == "host" else text_output
    batch, identities = source.shape[0], len(site)
    if identities == 1:  # one identity for all: one product over the pixels of all rows
        return [Attended(slice(0, batch), _probabilities(site, source, 0), 0)]
    spans = [slice(row, row + 1) for row in range(batch)]
    return [
        Attended(rows, _probabilities(site, source[rows], rows.start % identities), rows.start % identities)
        for rows in spans
    ]


# From here on views by hand, where `rearrange` stands elsewhere: between two large operations, with the caches full of
# other things, each of its patterns takes 10 to 20 us, at every site of every step.
def _probabilities(site: FoldedSite, source: Tensor, identity: int) -> Tensor | None:
    """(h, t, B * N): softmax over the tokens. It runs with the pixels last: along few tokens it is slow on CPUs."""
    if site.keys is None:
        return None
    keys = site.keys[identity]
    heads, _, width = site.values.shape[1:]
    if source.dtype != keys.dtype:
        source = source.to(keys.dtype)
    if site.query == "host":
        scores = torch.bmm(keys, source.reshape(-1, heads, width).permute(1, 2, 0))  # b n (h d) -> h d (b n)
    else:
        # Pixels times keys: the other way round, MKL's two threads take a quarter longer for the same product.
        scores = linear(source.reshape(-1, source.shape[-1]), keys).t()
        scores = scores.view(heads, -1, scores.shape[-1])  # (h t) pixels -> h t pixels
    attention = scores.softmax(dim=1)
    return attention if attention.dtype == site.values.dtype else attention.to(site.values.dtype)


def add_attended(out: Tensor, site: FoldedSite, *, attended: list[Attended], mask: Tensor | None = None) -> None:
    """Add the identities' values to `out` (B, N, C) in place.

    Args:
        out: contiguous; what `to_out` will take.
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


def add_constant(values: Tensor, site: FoldedSite) -> None:
    """Add a constant to the text's values (B, L, C) in place: the weights of an attention sum to one, so that its
    output has the constant at every pixel.

    Args:
        site: one without keys. Row i of the batch gets identity i modulo I.
    """
    if len(site) == 1:
        values.add_(site.values)
        return
    for row in range(len(values)):
        values[row].add_(site.values[row % len(site)])


def localisation_map(attended: list[Attended], *, pixels: int) -> Tensor:
    """1 - p(null), averaged over the heads: (B, N) in row order. Only for sites with a null key."""
    maps = [1.0 - step.attention[:, 0].float().mean(dim=0) for step in attended if step.attention is not None]
    return rearrange(torch.cat(maps), "(b n) -> b n", n=pixels)
