"""A low-rank change of an adapter's keys and values for one person (LoRA, Hu et al. 2021).

Tuning on a person's photos trains it; codes carry it (`wplus.codes.Refinement`), and ApplyIdentityAdapter adds it to
the adapter that it was made for.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import PIDiffError
from ..wplus.codes import Refinement, WPlus
from .adapter import IdentityAdapter

LAYERS = ("to_k", "to_v")  # of every site's branch


class LowRank(nn.Module):
    """weight + up down, with down (r, in) and up (out, r); up starts at zero."""

    def __init__(self, weight: Tensor, rank: int, *, generator: torch.Generator) -> None:
        super().__init__()
        out_width, in_width = weight.shape
        self.down = nn.Parameter(torch.randn(rank, in_width, generator=generator) * in_width**-0.5)
        self.up = nn.Parameter(torch.zeros(out_width, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)."""
        return weight + self.up @ self.down


def with_low_rank(adapter: IdentityAdapter, rank: int, *, seed: int) -> IdentityAdapter:
    """A frozen copy of an adapter whose keys and values have a trainable low-rank part that is still zero."""
    trainable = copy.deepcopy(adapter).float().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for spec in adapter.config.sites:
        for name in LAYERS:
            layer = getattr(trainable.branch(spec.name), name)
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, generator=generator))
    return trainable


def low_rank_parameters(trainable: IdentityAdapter) -> list[nn.Parameter]:
    """What trains in the result of `with_low_rank`."""
    return [parameter for parameter in trainable.parameters() if parameter.requires_grad]


def refinement_of(trainable: IdentityAdapter, adapter: IdentityAdapter) -> Refinement:
    """The low-rank part of `with_low_rank`'s result, for `adapter`, which it was made from."""
    weights: dict[str, Tensor] = {}
    for spec in adapter.config.sites:
        for name in LAYERS:
            (part,) = getattr(trainable.branch(spec.name), name).parametrizations.weight
            for side in ("down", "up"):
                weights[f"{spec.name}.{name}.{side}"] = getattr(part, side).detach().to("cpu", torch.float32).clone()
    return Refinement(fingerprint(adapter), weights)


def refined(adapter: IdentityAdapter, wplus: WPlus) -> IdentityAdapter:
    """The adapter for these codes: a copy with their refinement added, or the adapter itself if they have none.

    Raises:
        PIDiffError: the codes were tuned for another adapter.
    """
    if wplus.refinement is None:
        return adapter
    if wplus.refinement.adapter != fingerprint(adapter):
        raise PIDiffError(
            f"The codes '{wplus.source}' were tuned for another adapter than the one of this PIDiff model. Connect the "
            "PIDiff model that they were tuned with, or tune them again with this one."
        )
    result = copy.deepcopy(adapter)
    weights = wplus.refinement.weights
    with torch.no_grad():
        for spec in adapter.config.sites:
            for name in LAYERS:
                weight = getattr(result.branch(spec.name), name).weight
                down, up = (weights.get(f"{spec.name}.{name}.{side}") for side in ("down", "up"))
                if down is None or up is None or (len(up), down.shape[1]) != tuple(weight.shape):
                    raise PIDiffError(
                        f"The tuned codes '{wplus.source}' have no fitting part for {name} at {spec.name}. Tune the "
                        "person again."
                    )
                weight += (up @ down).to(weight)
    return result


def fingerprint(adapter: IdentityAdapter) -> str:
    """A hash of the weights that a refinement changes."""
    digest = hashlib.sha256()
    for spec in adapter.config.sites:
        for name in LAYERS:
            weight = getattr(adapter.branch(spec.name), name).weight
            digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
