"""What two other identity adapters compute at a cross-attention of ComfyUI's UNet, for comparison with ours.

Their arithmetic and its order only, written for this benchmark: the identity's keys and values are projected anew at
every site of every step, and IPAdapter_plus reads the noise level back from the device in every hook. Weights and
tokens come from outside, so that ours can be given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Attention = Callable[..., Tensor]  # the host's own: (q, k, v, heads), heads merged


@dataclass(frozen=True)
class EmptyHook:
    """A hook that does the same as the host without a hook."""

    text: Attention

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return self.text(q, k, v, extra_options["n_heads"])


@dataclass(frozen=True)
class IPAdapterHook:
    """IPAdapter_plus at one site: out = Attn(q, k, v) + weight * Attn(q, K tokens, V tokens), host query, both halves.

    Args:
        text: the host's attention, called for the text.
        attention: the same, called for the identity.
        to_k, to_v: projections of the tokens (C, W).
        tokens: by half (0 cond, 1 uncond), each (1, n, W).
        weight: strength.
        sigma_start, sigma_end: the noise levels between which it acts.
    """

    text: Attention
    attention: Attention
    to_k: Tensor
    to_v: Tensor
    tokens: Mapping[int, Tensor]
    weight: float = 1.0
    sigma_start: float = 999999999.9
    sigma_end: float = 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        out = self.text(q, k, v, extra_options["n_heads"])
        sigma = extra_options["sigmas"].detach().cpu()[0].item()
        if self.sigma_end <= sigma <= self.sigma_start:
            out = out + self._identity(q, extra_options)
        return out.to(q.dtype)

    def _identity(self, q: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        halves = extra_options["cond_or_uncond"]
        rows = len(q) // len(halves)
        keys = {half: F.linear(tokens, self.to_k).repeat(rows, 1, 1) for half, tokens in self.tokens.items()}
        values = {half: F.linear(tokens, self.to_v).repeat(rows, 1, 1) for half, tokens in self.tokens.items()}
        k = torch.cat([keys[half] for half in halves])
        v = torch.cat([values[half] for half in halves])
        return (self.attention(q, k, v, extra_options["n_heads"]) * self.weight).to(q.dtype)


@dataclass(frozen=True)
class WPlusAdapterHook:
    """W+ Adapter's published processor at one site: the query is a projection of the text's output, for every pixel.

    A = Attn(q, k, v);  out = A + scale * Attn(A Wq^T, tokens Wk^T, tokens Wv^T), torch's fused attention, as there.

    Args:
        text: the host's attention, called for the text.
        to_q: (C, C).
        to_k, to_v: (C, W).
        tokens: a row's own tokens (B, n, W): behind the text in its pipeline, here given apart.
        scale: strength.
    """

    text: Attention
    to_q: Tensor
    to_k: Tensor
    to_v: Tensor
    tokens: Tensor
    scale: float = 1.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        text = self.text(q, k, v, heads)
        split = (
            rearrange(x, "b n (h d) -> b h n d", h=heads)
            for x in (F.linear(text, self.to_q), F.linear(self.tokens, self.to_k), F.linear(self.tokens, self.to_v))
        )
        identity = F.scaled_dot_product_attention(*split)
        return text + self.scale * rearrange(identity, "b h n d -> b n (h d)")
