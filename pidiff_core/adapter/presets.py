"""Where in the UNet and when in the sampling the identity acts: named settings, and factors for single sites.

A UNet decides the composition where its feature maps are small (the deep sites around the middle block) and the detail
where they are large, and the decoder half ("output") draws what the encoder half ("input") has understood. So a preset
is five factors, told by block and depth, and fits every UNet of Stable Diffusion's kinds without a list of its blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PIDiffError
from .sites import BLOCKS, Site

MAX_FACTOR = 10.0  # of a single site; far beyond what any picture bears, and far below what half precision holds


@dataclass(frozen=True)
class Preset:
    """Factors of the identity's strength. "Deep" is the half of a block's sites that is nearer to the middle block."""

    input_shallow: float = 1.0
    input_deep: float = 1.0
    middle: float = 1.0
    output_deep: float = 1.0
    output_shallow: float = 1.0
    levels: Mapping[str, float] = field(default_factory=dict)  # coarse, medium, fine; 1 where absent
    start_percent: float = 0.0  # of the sampling
    end_percent: float = 1.0

    def factor(self, block: str, *, depth: float) -> float:
        """The factor of a site at `depth`: 0 at the full resolution, 1 beside the middle block."""
        if block == "middle":
            return self.middle
        return float(getattr(self, f"{block}_{'deep' if depth >= 0.5 else 'shallow'}"))


PRESETS: Mapping[str, Preset] = {
    # the adapter as it was trained
    "portrait": Preset(),
    # more of the person everywhere, of the features most; the background loses a little
    "likeness first": Preset(1.4, 1.4, 1.4, 1.4, 1.4, levels={"medium": 1.3}),
    # the prompt sets the scene alone, then the person comes in, and weaker
    "prompt first": Preset(0.5, 0.5, 0.5, 0.65, 0.65, start_percent=0.2),
    # colours and texture without the shape of the head: the fine styles, where detail is drawn, on a head that is there
    "style transfer": Preset(
        0.0, 0.0, 0.0, 0.5, 1.0, levels={"coarse": 0.0, "medium": 0.0, "fine": 1.5}, start_percent=0.3
    ),
    # layout, pose and framing of the picture without the identity: nothing deep, nothing while they are decided
    "composition kept": Preset(1.0, 0.0, 0.0, 0.5, 1.2, start_percent=0.3),
    # the published default: no identity in the first fifth of the steps
    "W+ Adapter": Preset(start_percent=0.2),
}


def depths(names: Sequence[str]) -> dict[str, float]:
    """How deep each site lies among those of its adapter: 0 the nearest to the full resolution, 1 to the middle block.

    >>> depths(["input.1.0", "input.3.0", "middle.0.0", "output.0.0", "output.1.0"])
    {'input.1.0': 0.0, 'input.3.0': 1.0, 'middle.0.0': 1.0, 'output.0.0': 1.0, 'output.1.0': 0.0}
    """
    found = {}
    for block in BLOCKS:
        here = sorted(site for name in names if (site := Site.from_name(name)).block == block)
        entries = sorted({site.number for site in here})
        last = max(len(entries) - 1, 1)
        for site in here:
            rank = entries.index(site.number) / last
            found[site.name] = 1.0 if block == "middle" else rank if block == "input" else 1.0 - rank
    return {name: found[name] for name in names}


def site_factors(preset: str, names: Sequence[str], *, text: str = "") -> dict[str, float]:
    """One factor a site, from a preset and the user's own.

    Args:
        preset: one of PRESETS.
        names: the adapter's sites.
        text: the user's factors, multiplied in: "middle=0 output=1.2 output.3=0.5 input.4.1=0"; a block, an entry of it
            or one site, separated by blanks, commas or lines. The most exact one counts.

    Raises:
        PIDiffError: an unknown preset, a word that is no "site=number", or a site that is not there.
    """
    if preset not in PRESETS:
        raise PIDiffError(f"There is no preset '{preset}': the presets are {', '.join(PRESETS)}.")
    own = _parse(text)
    if unknown := [key for key in own if not any(_covers(key, name) for name in names)]:
        raise PIDiffError(
            f"No site of this adapter is called {', '.join(unknown)}. Its sites are {', '.join(names)}; "
            "'output' or 'output.3' mean all that begin so."
        )
    factors = {}
    for name, depth in depths(names).items():
        factor = PRESETS[preset].factor(name.split(".")[0], depth=depth)
        covering = [key for key in own if _covers(key, name)]
        factors[name] = factor * (own[max(covering, key=len)] if covering else 1.0)
    return factors


def _parse(text: str) -> dict[str, float]:
    factors = {}
    for word in re.split(r"[\s,;]+", re.sub(r"\s*=\s*", "=", text.strip())):
        if not word:
            continue
        key, _, value = word.partition("=")
        try:
            factors[key] = float(value)
        except ValueError:
            factors[key] = math.nan
        if not 0.0 <= factors[key] <= MAX_FACTOR:  # also not a number
            raise PIDiffError(
                f"'{word}' sets no site: write 'site=number' with a number from 0 to {MAX_FACTOR:g}, such as "
                "'middle=0 output.3=0.5'."
            )
    return factors


def _covers(key: str, name: str) -> bool:
    return name == key or name.startswith(f"{key}.")
