"""The identity adapter: a projection of W+ codes to tokens in the UNet's context width, and one branch at every site.

codes (B, S, 512) -> projection -> tokens (B, n, W) -> at every site: keys and values (attention.py)
"""

from __future__ import annotations

from typing import cast

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from ..errors import PIDiffError
from ..shapes import check_shape
from ..wplus.codes import WPlus, levels
from .attention import SiteBranch
from .config import AdapterConfig


class GroupedLinear(nn.Module):
    """One linear layer for each style, or for each group of styles, as a single parameter.

    Args:
        group_of_style: for each style, which group's weights it uses.
        in_width, out_width: widths of the layer.
    """

    group_of_style: Tensor  # (S,) integers

    def __init__(self, group_of_style: list[int], in_width: int, *, out_width: int) -> None:
        super().__init__()
        groups = max(group_of_style) + 1
        self.weight = nn.Parameter(torch.randn(groups, in_width, out_width) * in_width**-0.5)
        self.bias = nn.Parameter(torch.zeros(groups, out_width))
        groups_here = torch.tensor(group_of_style, device="cpu")  # also where the weights are still to come
        self.register_buffer("group_of_style", groups_here, persistent=False)
        self.shared = groups != len(group_of_style)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, in) -> (B, S, out)."""
        weight = self.weight[self.group_of_style] if self.shared else self.weight
        bias = self.bias[self.group_of_style] if self.shared else self.bias
        return einsum(x, weight, "b s i, s i o -> b s o") + bias


class TokenMixer(nn.Module):
    """A pre-norm MLP-mixer layer: first across the styles, then across the channels; it starts as the identity."""

    def __init__(self, num_styles: int, width: int) -> None:
        super().__init__()
        self.style_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across_styles = nn.Sequential(
            nn.Linear(num_styles, 2 * num_styles), nn.GELU(), nn.Linear(2 * num_styles, num_styles)
        )
        self.across_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        for parameter in (*self.across_styles[-1].parameters(), *self.across_channels[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        styles_last = rearrange(self.style_norm(tokens), "b s w -> b w s")
        tokens = tokens + rearrange(self.across_styles(styles_last), "b w s -> b s w")
        return tokens + self.across_channels(self.channel_norm(tokens))


class StyleProjection(nn.Module):
    """The native projection: one token a style, which stays that style's own by a learned embedding.

    Its input are offsets (codes - latent_avg); `code_std` (S, D) brings them to unit scale.
    """

    code_std: Tensor

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        styles = config.num_styles
        if config.sharing == "style":
            groups = list(range(styles))
        else:
            groups = [0] * styles
            for group, level in enumerate(levels(styles).values()):
                groups[level] = [group] * len(groups[level])
        self.num_styles, self.code_width = styles, config.code_width
        self.register_buffer("code_std", torch.ones(styles, config.code_width))
        if config.hidden:
            self.layers = nn.Sequential(
                GroupedLinear(groups, config.code_width, out_width=config.hidden),
                nn.GELU(),
                GroupedLinear(groups, config.hidden, out_width=config.token_width),
            )
        else:
            self.layers = nn.Sequential(GroupedLinear(groups, config.code_width, out_width=config.token_width))
        self.style_embedding = nn.Parameter(torch.randn(styles, config.token_width) * 0.5)
        self.mixers = nn.Sequential(*(TokenMixer(styles, config.token_width) for _ in range(config.mixer_layers)))
        self.norm = nn.LayerNorm(config.token_width)

    def forward(self, offsets: Tensor) -> Tensor:
        """Offset codes (B, S, D) -> tokens (B, S, W).

        Raises:
            PIDiffError: the codes are of another shape.
        """
        check_shape(offsets, f"B {self.num_styles} {self.code_width}", name="offset codes")
        tokens = self.layers(offsets / self.code_std) + self.style_embedding
        return self.norm(self.mixers(tokens))


class WPlusAdapterProjection(nn.Module):
    """W+ Adapter's projection: four groups of flattened styles, one token each, no bias, one LayerNorm.

    The groups are styles 0-3, 4-7, 8-11 and the rest (12-17 of 18).
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.num_styles, self.code_width = config.num_styles, config.code_width
        for group, styles in enumerate(self.groups()):
            in_width = len(range(config.num_styles)[styles]) * config.code_width
            self.add_module(f"proj_{group}", nn.Linear(in_width, config.token_width, bias=False))
        self.norm = nn.LayerNorm(config.token_width)

    @staticmethod
    def groups() -> tuple[slice, ...]:
        """Which styles each of the four tokens reads."""
        return slice(0, 4), slice(4, 8), slice(8, 12), slice(12, None)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, 18, 512) -> tokens (B, 4, W).

        Raises:
            PIDiffError: the codes are of another shape.
        """
        check_shape(codes, f"B {self.num_styles} {self.code_width}", name="codes")
        tokens = [
            self.get_submodule(f"proj_{group}")(rearrange(codes[:, styles], "b s d -> b (s d)"))
            for group, styles in enumerate(self.groups())
        ]
        return self.norm(torch.stack(tokens, dim=1))


class SiteBranches(nn.ModuleDict):
    """Branches by site name. Module names cannot hold dots, so `input.1.0` is kept as `input_1_0`."""

    def __getitem__(self, name: str) -> SiteBranch:
        return cast(SiteBranch, super().__getitem__(name.replace(".", "_")))

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name.replace(".", "_"))


class IdentityAdapter(nn.Module):
    """All that an adapter checkpoint holds.

    Example:
        >>> sites = (SiteSpec("middle.0.0", 64, 4),)
        >>> config = AdapterConfig(sites=sites, num_styles=10, code_width=128, token_width=96)
        >>> adapter = IdentityAdapter(config)
        >>> tokens = adapter.projection(offsets)  # (B, 10, 128) -> (B, 10, 96)
        >>> a_id, localisation = adapter.sites["middle.0.0"](q, a_text, tokens=tokens)
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.projection: nn.Module = (
            StyleProjection(config) if config.format == "pidiff" else WPlusAdapterProjection(config)
        )
        self.sites = SiteBranches({spec.name.replace(".", "_"): SiteBranch(spec, config) for spec in config.sites})

    def tokens(self, wplus: WPlus) -> Tensor:
        """The identities' tokens (B, n, W), without gradients.

        The native projection reads offsets from the average code, W+ Adapter's reads the absolute codes.
        """
        codes = wplus.offsets if self.config.format == "pidiff" else wplus.codes
        return self._project(codes)

    def zero_tokens(self) -> Tensor:
        """The tokens (1, n, W) of an all-zero input: W+ Adapter's unconditional half; natively the average face."""
        return self._project(torch.zeros(1, self.config.num_styles, self.config.code_width))

    @torch.no_grad()
    def _project(self, codes: Tensor) -> Tensor:
        weight = next(self.projection.parameters())
        return self.projection(codes.to(weight))

    def branch(self, name: str) -> SiteBranch:
        """The branch at the site of that name.

        Raises:
            PIDiffError: the adapter has no branch there.
        """
        if name not in self.sites:
            known = ", ".join(spec.name for spec in self.config.sites)
            raise PIDiffError(f"The adapter has no branch at site {name}: its sites are {known}.")
        return self.sites[name]
