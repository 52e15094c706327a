"""Sites: the cross-attentions of a UNet, named as ComfyUI numbers them.

ComfyUI's `transformer_options["block"]` is `(block, number)`: `number` counts the entries of `input_blocks` or
`output_blocks`; the middle block has the number 0. `index` counts the transformer layers inside that entry
(`transformer_options["block_index"]`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..errors import PIDiffError

BLOCKS = ("input", "middle", "output")


@dataclass(frozen=True, order=True)
class Site:
    """One cross-attention in the UNet.

    Args:
        block: "input", "middle" or "output".
        number: position of the entry in that block list, from 0.
        index: position of the transformer layer in that entry, from 0.
    """

    block: str
    number: int
    index: int

    def __post_init__(self) -> None:
        if self.block not in BLOCKS or self.number < 0 or self.index < 0:
            raise PIDiffError(
                f"{self.block}.{self.number}.{self.index} names no site: "
                f"expected one of {', '.join(BLOCKS)} and two counts."
            )

    @property
    def name(self) -> str:
        """The site as text, `input.1.0`; this is its key in configurations and checkpoints."""
        return f"{self.block}.{self.number}.{self.index}"

    @classmethod
    def from_name(cls, name: str) -> Site:
        """Read a site back from its name.

        Raises:
            PIDiffError: the name is not `block.number.index`.
        """
        parts = name.split(".")
        if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
            raise PIDiffError(f"'{name}' names no site: expected block.number.index, such as input.1.0.")
        return cls(parts[0], int(parts[1]), int(parts[2]))


class SiteSpec(NamedTuple):
    """What a site looks like: `width` channels of its query, split over `heads`."""

    name: str
    width: int
    heads: int
