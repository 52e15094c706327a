"""What the PIDIFF_MODEL wire carries: the networks of one W+ space, and the two ways through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import PIDiffError
from .images import bchw_to_bhwc, check_image_bchw, resize_bchw
from .lazy import LazyNetwork
from .shapes import check_shape
from .wplus import WPlus, WPlusSpace

if TYPE_CHECKING:
    from .adapter.adapter import IdentityAdapter
    from .face.detection import FaceDetector


@dataclass(frozen=True, eq=False)
class PIDiffModel:
    """The parts that are at hand for one W+ space. Any network may be absent; what needs it then says so."""

    space: WPlusSpace
    latent_avg: Tensor | None  # (S, D): the generator's average code; None where no file says it
    adapter: IdentityAdapter | None = None
    encoder: nn.Module | LazyNetwork | None = None  # crops (B, 3, H, H) in [-1, 1] -> offsets (B, S, D)
    generator: nn.Module | LazyNetwork | None = None  # .synthesis(codes (B, S, D)) -> (B, 3, size, size) in [-1, 1]
    directions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (S, D) or (1, D)
    source: str = ""  # the file or bundle, for people
    crop_size: int = 256  # px: the aligned crop that the encoder reads
    detector: FaceDetector | None = None  # the model's own, for pictures of its kind; asked only by name
    files: tuple[object, ...] = ()  # what the parts were read from: while one model holds them, others share them

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
        """The network called `part`, read and where it runs; PIDiffError where this model has none.

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
        """(S, D): `latent_avg`; PIDiffError where no file says it."""
        if self.latent_avg is None:
            raise PIDiffError(
                f"The PIDiff model '{self.source or self.space.name}' does not know the average code of its space. "
                "Choose the encoder in the loader node too: its file holds it."
            )
        return self.latent_avg

    def require_space_of(self, wplus: WPlus) -> None:
        """Raise PIDiffError unless these codes live in this model's space."""
        if wplus.space != self.space:
            raise PIDiffError(
                f"These W+ codes belong to {wplus.space}, but the PIDiff model is of {self.space}. "
                "Use the model that the codes were encoded with."
            )


def encode(
    model: PIDiffModel, crops_bchw: Tensor, *, source: str = "", origin: Mapping[str, Any] | None = None
) -> WPlus:
    """Read W+ codes from aligned crops (B, 3, H, H) in [-1, 1], background already removed.

    Any square size will do: it is resized to `model.crop_size`. Runs where the encoder's weights are, in their type,
    crop by crop: that bounds the memory, and a person's code does not depend on who else is in the batch.

    Raises:
        PIDiffError: no encoder, a crop that is not square, or an encoder whose output is not finite.
    """
    encoder = model.require("encoder", purpose="to read codes from a photo")
    sizes = check_image_bchw(crops_bchw, name="the aligned crop")
    if sizes["H"] != sizes["W"]:
        raise PIDiffError(f"The aligned crop should be square, but it is {sizes['W']}x{sizes['H']} pixels.")
    average = model.require_average().float().cpu()
    weight = next(encoder.parameters())
    with torch.no_grad():
        crops = (resize_bchw(crop.float(), model.crop_size).to(weight) for crop in crops_bchw.split(1))
        offsets = torch.cat([encoder(crop).float().cpu() for crop in crops])
    if not torch.isfinite(offsets).all():
        half = weight.dtype == torch.float16
        raise PIDiffError(
            f"The encoder of '{model.source or model.space.name}' gave numbers that are not finite in {weight.dtype}. "
            + ("Set LoadPIDiff's precision to fp32 or bf16." if half else "Choose another file for the encoder.")
        )
    return WPlus.from_offsets(offsets, average, space=model.space, source=source, origin=origin)


def decode(model: PIDiffModel, wplus: WPlus) -> Tensor:
    """The generator's portraits of these codes: image_bhwc (B, size, size, 3) in [0, 1], the same every time."""
    generator = model.require("generator", purpose="to show codes as a portrait")
    model.require_space_of(wplus)
    weight = next(generator.parameters())
    with torch.no_grad():
        pictures = [generator.synthesis(codes[None].to(weight), noise="fixed").cpu() for codes in wplus.codes]
    return bchw_to_bhwc(torch.cat(pictures))
