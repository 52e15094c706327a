"""The identity branch in a diffusers UNet2DConditionModel: for training, and to compare with ComfyUI.

binding = attach_identity(unet, adapter)
with binding.identity(tokens, on=on) as identity:      # outside, the UNet is untouched
    prediction = unet(latents, timesteps, text).sample
identity.maps                                          # {"input.1.0": (B, N), ...}, with gradients
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..adapter.adapter import IdentityAdapter
from ..adapter.sites import Site, SiteSpec
from ..errors import PIDiffError

UNet = Any  # diffusers.UNet2DConditionModel; diffusers is an optional extra and is not imported here


@dataclass(eq=False)
class IdentityContext:
    """What the branch does during one forward pass, and what it found.

    Args:
        tokens: (B, n, W), one identity a sample.
        on: (B,) in [0, 1]: 0 drops the identity of that sample; None = all on.
        strength: factor of every branch.
    """

    tokens: Tensor
    on: Tensor | None = None
    strength: float = 1.0
    maps: dict[str, Tensor] = field(default_factory=dict)
    """Filled by the pass: site name -> localisation map (B, N), pixels row by row."""


class IdentityBinding:
    """An adapter attached to a UNet; made by `attach_identity`."""

    def __init__(self, unet: UNet, adapter: IdentityAdapter) -> None:
        self.unet, self.adapter = unet, adapter
        self.current: IdentityContext | None = None
        self._originals = dict(unet.attn_processors)

    @contextmanager
    def identity(self, tokens: Tensor, *, on: Tensor | None = None, strength: float = 1.0) -> Iterator[IdentityContext]:
        """Run the branch in every pass inside the `with`; see `IdentityContext`."""
        if self.current is not None:
            raise PIDiffError("An identity is active on this UNet already: leave its `with` before you enter the next.")
        self.current = IdentityContext(tokens, on, strength)
        try:
            yield self.current
        finally:
            self.current = None

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the inputs of the UNet's blocks, and run each block again when its gradients are computed."""
        self.unet.enable_gradient_checkpointing(self._checkpointed)

    def _checkpointed(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """A block whose second run, after the `with` was left, sees the identity of its first one."""
        context = self.current

        def run(*inputs: Any) -> Any:
            before, self.current = self.current, context
            try:
                return block(*inputs)
            finally:
                self.current = before

        return checkpoint(run, *inputs, use_reentrant=False)

    def detach(self) -> None:
        """Give the UNet its own processors back."""
        self.unet.set_attn_processor(self._originals)


class IdentityProcessor:
    """Attention processor of one cross-attention: the text attention of the host, then the branch on top.

    A plain object rather than a module: the branch belongs to the adapter, not to the UNet's state dict.
    """

    def __init__(self, binding: IdentityBinding, name: str, *, original: Any) -> None:
        self.binding, self.name, self.original = binding, name, original
        self.branch = binding.adapter.branch(name)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, N, C) -> (B, N, C)."""
        context = self.binding.current
        if context is None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        assert encoder_hidden_states is not None  # this processor sits on cross-attentions only
        batch, length = encoder_hidden_states.shape[:2]
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch)
            attention_mask = rearrange(attention_mask, "(b h) one n -> b h one n", h=attn.heads)
        host_query = attn.to_q(hidden_states)
        q, k, v = (
            rearrange(x, "b n (h d) -> b h n d", h=attn.heads)
            for x in (host_query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        text_output = rearrange(
            F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask), "b h n d -> b n (h d)"
        )
        a_id, localisation = self.branch(host_query, text_output, tokens=context.tokens)
        gate: Tensor | float = context.strength
        if context.on is not None:
            gate = rearrange(context.on.to(a_id.dtype), "b -> b 1 1") * gate
        context.maps[self.name] = localisation
        out = attn.to_out[1](attn.to_out[0](text_output + gate * a_id))
        return out / attn.rescale_output_factor


def site_of(unet: UNet, attn_name: str) -> Site:
    """Which site a diffusers cross-attention is.

    Args:
        unet: any UNet2DConditionModel.
        attn_name: its module or processor name, `down_blocks.0.attentions.1.transformer_blocks.0.attn2.processor`.

    Raises:
        PIDiffError: that is not a cross-attention of the UNet.
    """
    parts = attn_name.split(".")
    if "attn2" not in parts or "attentions" not in parts:
        raise PIDiffError(f"'{attn_name}' is not a cross-attention of a UNet2DConditionModel.")
    index = int(parts[parts.index("transformer_blocks") + 1])
    layer = int(parts[parts.index("attentions") + 1])
    if parts[0] == "mid_block":
        return Site("middle", 0, index)
    level = int(parts[1])
    # ComfyUI counts conv_in as entry 0 and each downsampler as an entry of its own;
    # an upsampler shares the entry of the layer before it.
    if parts[0] == "down_blocks":
        return Site("input", 1 + sum(len(block.resnets) + 1 for block in unet.down_blocks[:level]) + layer, index)
    return Site("output", sum(len(block.resnets) for block in unet.up_blocks[:level]) + layer, index)


def cross_attention_sites(unet: UNet) -> tuple[SiteSpec, ...]:
    """All sites of a UNet2DConditionModel with their widths and heads, for `AdapterConfig.sites`."""
    specs = []
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            specs.append(SiteSpec(site_of(unet, name).name, module.to_q.out_features, module.heads))
    return tuple(specs)


def attach_identity(unet: UNet, adapter: IdentityAdapter) -> IdentityBinding:
    """Put the adapter's branches on a UNet2DConditionModel; without an active identity it computes what it did before.

    Raises:
        PIDiffError: the adapter's sites are not the UNet's.
    """
    found, wanted = set(cross_attention_sites(unet)), set(adapter.config.sites)
    if not wanted <= found:
        raise PIDiffError(
            f"The adapter does not fit the UNet (site, width, heads): it wants {sorted(wanted - found)}; "
            f"the UNet has {sorted(found - wanted)}."
        )
    binding = IdentityBinding(unet, adapter)
    processors = dict(unet.attn_processors)
    for name, original in processors.items():
        if ".attn2." in name and (site := site_of(unet, name).name) in adapter.sites:
            processors[name] = IdentityProcessor(binding, site, original=original)
    unet.set_attn_processor(processors)
    return binding
