"""The identity branch at one cross-attention of the UNet: the method, in the form that trains.

Stable Diffusion's UNet reads the prompt in its cross-attentions: queries Q come from the pixels of a feature map, keys
and values from the text. At each of them (a "site") PIDiff adds a second attention, from the same pixels to the tokens
of an identity (W+ codes, projected to the UNet's context width in adapter.py; one token for each style):

    A_text = Attn(Q, K_text, V_text)                       computed by the UNet itself
    A_id   = Attn(Q_id, [K_null ; K_id], [0 ; V_id])       computed here
    out    = A_text + strength * M * A_id                  goes on into the site's to_out

K_id and V_id are projections of the tokens. Q_id is the site's own query Q, or, in W+ Adapter's format, a projection of
A_text. M is the user's mask, or 1.

The null key is one more learned key, whose value is zero: a pixel that attends to it takes nothing from the identity,
so the branch fades out outside of the person without a mask. 1 - p(null) is the localisation map, which training
supervises with face masks.

While sampling, the same is computed in fewer operations: folding.py.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import AdapterConfig
from .sites import SiteSpec


def identity_attention(
    q: Tensor, k: Tensor, *, v: Tensor, null_key: Tensor | None, heads: int
) -> tuple[Tensor, Tensor]:
    """Attend from every pixel to the identity's tokens and to "no identity here".

    Args:
        q: queries Q_id (B, N, C), heads merged.
        k: keys of the tokens (B, n, C).
        v: values of the tokens (B, n, C).
        null_key: K_null (C), or None for an attention without it.
        heads: how many heads the C channels hold.

    Returns:
        A_id (B, N, C), and the localisation map (B, N) in [0, 1]: 1 - p(null), averaged over the heads; ones without
        a null key.
    """
    if null_key is not None:
        k = torch.cat([null_key.to(k.dtype).expand(k.shape[0], 1, -1), k], dim=1)
    q = rearrange(q, "b pixels (h d) -> b h d pixels", h=heads)
    k = rearrange(k, "b n (h d) -> b h n d", h=heads)
    v = rearrange(v, "b n (h d) -> b h d n", h=heads)
    # The pixels are the last dimension throughout: a softmax along a last dimension of a few tokens is slow on CPUs.
    scores = (k * (1.0 / math.sqrt(k.shape[-1]))) @ q
    attention = scores.float().softmax(dim=-2).to(v.dtype)
    if null_key is None:
        localisation = attention.new_ones(attention.shape[0], attention.shape[-1])
    else:
        localisation = 1.0 - attention[:, :, 0].mean(dim=1)
        attention = attention[:, :, 1:]  # the null key's value is zero
    return rearrange(v @ attention, "b h d pixels -> b pixels (h d)"), localisation


class SiteBranch(nn.Module):
    """The weights of the identity branch at one site.

    `to_v` starts at zero: an untrained branch adds exactly nothing.
    """

    def __init__(self, spec: SiteSpec, config: AdapterConfig) -> None:
        super().__init__()
        self.heads = spec.heads
        self.to_k = nn.Linear(config.token_width, spec.width, bias=False)
        self.to_v = nn.Linear(config.token_width, spec.width, bias=False)
        nn.init.zeros_(self.to_v.weight)
        self.null_key = nn.Parameter(torch.zeros(spec.width)) if config.format == "pidiff" else None
        self.to_q = nn.Linear(spec.width, spec.width, bias=False) if config.query == "text" else None

    def forward(self, host_query: Tensor, text_output: Tensor, *, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's contribution before strength and mask.

        Args:
            host_query: Q of the site (B, N, C), heads merged.
            text_output: A_text (B, N, C), heads merged, before `to_out`.
            tokens: the identity's tokens (B, n, W).

        Returns:
            A_id (B, N, C) and the localisation map (B, N).
        """
        q = host_query if self.to_q is None else self.to_q(text_output)
        return identity_attention(q, self.to_k(tokens), v=self.to_v(tokens), null_key=self.null_key, heads=self.heads)
