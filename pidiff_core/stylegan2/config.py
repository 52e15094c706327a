"""The configuration of a StyleGAN2 generator, and the common ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import PIDiffError

_MOST_LAYERS = 256  # a limit, because a file could ask for so many that the process would not return


@dataclass(frozen=True)
class GeneratorConfig:
    """The sizes that determine the shapes of a generator's weights."""

    size: int = 1024  # px: the picture's side, a power of two
    width: int = 512  # D: numbers in one style code
    z_dim: int = 512  # numbers in the mapping network's Gaussian input
    mapping_layers: int = 8
    mapping_lr_mul: float = 0.01  # equalised learning rate of the mapping network
    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # at 4, 8, 16 ... `size` px

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.size < 8 or self.size & (self.size - 1):
            raise PIDiffError(f"A generator's size must be a power of two, at least 8 px, but it is {self.size}.")
        if not 0 < self.mapping_layers <= _MOST_LAYERS:
            raise PIDiffError(
                f"A generator's mapping network has 1 to {_MOST_LAYERS} layers, but this one asks for "
                f"{self.mapping_layers}. The file is not a StyleGAN2 generator."
            )
        resolutions = int(math.log2(self.size)) - 1
        if len(self.channels) != resolutions:
            raise PIDiffError(
                f"A generator of {self.size} px has {resolutions} resolutions (4 to {self.size} px), "
                f"but {len(self.channels)} numbers of channels were given: {self.channels}."
            )

    @property
    def num_styles(self) -> int:
        """S: two styles per resolution; to_rgb shares the second style of the first one."""
        return 2 * int(math.log2(self.size)) - 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, for the checkpoint's metadata."""
        return {**dataclasses.asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GeneratorConfig:
        """The reverse of `to_dict`; unknown fields are a PIDiffError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise PIDiffError(f"Unknown fields in a generator's configuration: {', '.join(unknown)}.")
        return cls(**fields)


PRESETS = {
    "ffhq-1024": GeneratorConfig(),
    "ffhq-512": GeneratorConfig(size=512, channels=(512, 512, 512, 512, 512, 256, 128, 64)),
    "ffhq-256": GeneratorConfig(size=256, channels=(512, 512, 512, 512, 512, 256, 128)),
    "mini-64": GeneratorConfig(size=64, width=128, z_dim=128, mapping_layers=4, channels=(96, 96, 64, 48, 32)),
}
