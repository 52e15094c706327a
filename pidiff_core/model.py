"""What the PIDIFF_MODEL wire carries: the networks of one W+ space. `pipeline` runs photos and codes through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import PIDiffError
from .files.lazy import LazyNetwork
from .shapes import check_shape
from .wplus.codes import WPlus, WPlusSpace

if TYPE_CHECKING:
    from .adapter.adapter import IdentityAdapter
    from .face.search import FaceDetector


@dataclass(frozen=True, eq=False)
class PIDiffModel:
    """The parts of one W+ space. Any network may be absent: what needs it raises an error that names it."""

    space: WPlusSpace
    latent_avg: Tensor | None  # (S, D): the generator's average code; None if no file holds it
    adapter: IdentityAdapter | None = None
    encoder: nn.Module | LazyNetwork | None = None  # crops (B, 3, H, H) in [-1, 1] -> offsets (B, S, D)
    generator: nn.Module | LazyNetwork | None = None  # .synthesis(codes (B, S, D)) -> (B, 3, size, size) in [-1, 1]
    directions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (S, D) or (1, D)
    source: str = ""  # the file or bundle, for people
    crop_size: int = 256  # px: the aligned crop that the encoder reads
    detector: FaceDetector | None = None  # the model's own, for pictures of its kind; used only if the user chooses it
    files: tuple[object, ...] = ()  # what the parts were read from: other models share them while one holds them

    def __post_init__(self) -> None:
        if self.latent_avg is not None:
            pattern = f"{self.space.num_styles} {self.space.width}"
            check_shape(self.latent_avg, pattern, name=f"latent_avg of {self.space}")
            if not torch.isfinite(self.latent_avg).all():
                raise PIDiffError(
                    f"The average code of '{self.source or self.space.name}' holds numbers that are not finite."
                )
        for network in (self.encoder, self.generator):
            if isinstance(network, nn.Module):
                network.eval()  # batch statistics would make a code depend on its neighbours

    def require(self, part: str, *, purpose: str) -> Any:
        """The network called `part`, read and on its device; PIDiffError if this model has none.

        Ask again for every use: between two, the host may have moved it away.
        """
        network = getattr(self, part)
        if network is None:
            raise PIDiffError(
                f"The PIDiff model '{self.source or self.space.name}' has no {part}, which is needed {purpose}. "
                f"Choose a file for the {part} in the loader node."
            )
        return network.ready() if isinstance(network, LazyNetwork) else network

    def require_average(self) -> Tensor:
        """(S, D): `latent_avg`; PIDiffError if it is unknown."""
        if self.latent_avg is None:
            raise PIDiffError(
                f"The PIDiff model '{self.source or self.space.name}' does not know the average code of its space. "
                "Choose the encoder in the loader node too: its file holds it."
            )
        return self.latent_avg

    def require_space_of(self, wplus: WPlus) -> None:
        """Raise PIDiffError unless these codes belong to this model's space."""
        if wplus.space != self.space:
            raise PIDiffError(
                f"These W+ codes belong to {wplus.space}, but the PIDiff model is of {self.space}. "
                "Use the model that the codes were encoded with."
            )
