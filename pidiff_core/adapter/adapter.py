"""The identity adapter: a projection of W+ codes to tokens, and one branch at every site."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import PIDiffError
from ..wplus import WPlus
from .attention import SiteBranch
from .config import AdapterConfig
from .projection import StyleProjection, WPlusAdapterProjection


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
