"""The sizes of an e4e encoder, and the sizes that are in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import PIDiffError

_MOST_LAYERS = 256  # a file that asks for more than this would keep the process busy for ever


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shapes of an encoder's weights.

    The body has four groups of IR-SE units; each group halves the picture. The pyramid's three maps are those after the
    second (fine), third (medium) and fourth (coarse) group.
    """

    image_size: int = 256  # px: the side of the crop that it reads, a power of two
    num_styles: int = 18  # S
    width: int = 512  # D: numbers in one style code
    stem_channels: int = 64
    units: tuple[int, int, int, int] = (3, 4, 14, 3)  # units of each group
    depths: tuple[int, int, int, int] = (64, 128, 256, 512)  # channels of each group; the last one's are the pyramid's
    head_channels: int = 512  # channels inside a style head
    heads: tuple[int, int, int] = (3, 4, 11)  # how many heads read the coarse, the medium and the fine map
    se_reduction: int = 16  # squeeze-and-excitation: channels / this in the bottleneck

    def __post_init__(self) -> None:
        for name in ("units", "depths", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.image_size < 32 or self.image_size & (self.image_size - 1):
            raise PIDiffError(
                f"An encoder's picture size must be a power of two, at least 32 px, but it is {self.image_size}."
            )
        if len(self.units) != 4 or len(self.depths) != 4 or min(self.units) < 1:
            raise PIDiffError(
                f"An encoder has four groups of units, but these were given: {self.units}, {self.depths}."
            )
        if max(*self.units, self.num_styles) > _MOST_LAYERS:
            raise PIDiffError(
                f"An encoder has at most {_MOST_LAYERS} units in a group and as many styles, but this one asks for "
                f"{self.units} and {self.num_styles}. The file is not an e4e encoder."
            )
        if len(self.heads) != 3 or min(self.heads) < 1 or sum(self.heads) != self.num_styles:
            raise PIDiffError(
                f"An encoder of {self.num_styles} styles needs as many heads on three maps, but got {self.heads}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the checkpoint's metadata."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EncoderConfig:
        """The reverse of `to_dict`; unknown fields are a PIDiffError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise PIDiffError(f"Unknown fields in an encoder's configuration: {', '.join(unknown)}.")
        return cls(**fields)


def heads_for(num_styles: int) -> tuple[int, int, int]:
    """How many heads read each map in a space of S styles: the published 3, 4, 11 of 18, in proportion.

    >>> heads_for(18), heads_for(10)
    ((3, 4, 11), (2, 2, 6))
    """
    coarse, medium = round(3 * num_styles / 18), round(7 * num_styles / 18)
    return coarse, medium - coarse, num_styles - medium


PRESETS = {
    "ffhq-1024": EncoderConfig(),
    "mini-64": EncoderConfig(
        image_size=64,
        num_styles=10,
        width=128,
        stem_channels=16,
        units=(2, 2, 2, 2),
        depths=(32, 48, 64, 96),
        head_channels=48,
        heads=heads_for(10),
        se_reduction=8,
    ),
}
