"""How strongly an identity acts, where in the UNet and when: the options, the presets, and their product.

A UNet decides the composition at the sites with small feature maps (the deep sites around the middle block) and the
detail at those with large ones, and its decoder half ("output") draws what the encoder half ("input") has encoded.
So a preset is five factors, by block and depth, and fits every UNet of the Stable Diffusion family without a list of
its blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import PIDiffError
from .config import AdapterConfig
from .sites import BLOCKS, Site

MAX_FACTOR = 10.0  # of a single site; more only burns the picture, and half precision holds far more
UNCONDITIONAL = ("auto", "nothing", "average person")
ARRANGEMENTS = ("anywhere", "left to right")


@dataclass(frozen=True)
class Preset:
    """Factors of the identity's strength. "Deep" is the half of a block's sites that is nearer to the middle block."""

    input_shallow: float = 1.0
    input_deep: float = 1.0
    middle: float = 1.0
    output_deep: float = 1.0
    output_shallow: float = 1.0
    levels: Mapping[str, float] = field(default_factory=dict)  # coarse, medium, fine; 1 if absent
    start_percent: float = 0.0  # of the sampling
    end_percent: float = 1.0
    skip_steps: float = 0.0  # fraction of the steps that are drawn without the identity, whatever the schedule

    def factor(self, block: str, *, depth: float) -> float:
        """The factor of a site at `depth`: 0 at the full resolution, 1 beside the middle block."""
        if block == "middle":
            return self.middle
        return float(getattr(self, f"{block}_{'deep' if depth >= 0.5 else 'shallow'}"))


PRESETS: Mapping[str, Preset] = {
    # the adapter as it was trained
    "portrait": Preset(),
    # a stronger identity at every site, strongest in the features; the background follows the prompt a little less
    "likeness first": Preset(1.4, 1.4, 1.4, 1.4, 1.4, levels={"medium": 1.3}),
    # the prompt sets the scene first, then a weaker identity starts
    "prompt first": Preset(0.5, 0.5, 0.5, 0.65, 0.65, start_percent=0.2),
    # colours and texture without the shape of the head: fine styles only, at the sites that draw detail, and late
    "style transfer": Preset(
        0.0, 0.0, 0.0, 0.5, 1.0, levels={"coarse": 0.0, "medium": 0.0, "fine": 1.5}, start_percent=0.3
    ),
    # layout, pose and framing of the picture without the identity: nothing deep, and nothing while they are decided
    "composition kept": Preset(1.0, 0.0, 0.0, 0.5, 1.2, start_percent=0.3),
    # distilled models (LCM, Lightning, Turbo, DMD2) at CFG 1: the identity acts in every step, and is stronger, because
    # guidance, which multiplies what it adds to the positive prompt, is off
    "few steps": Preset(1.5, 1.5, 1.5, 1.5, 1.5),
    # as published: step i of n is drawn without the identity while i <= 0.2 n
    "W+ Adapter": Preset(skip_steps=0.2),
}


@dataclass(frozen=True)
class ApplyOptions:
    """What the user sets on Apply Identity Adapter."""

    strength: float = 1.0
    """Of the whole identity; 0 = the picture without it."""
    start_percent: float = 0.0
    """Fraction of the sampling at which the identity starts, as ComfyUI counts it."""
    end_percent: float = 1.0
    """Fraction of the sampling at which it ends."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Strength of the coarse, medium and fine styles; 1 if absent."""
    preset: str = "portrait"
    """One of PRESETS; multiplied in, and its range cuts the range above."""
    site_strengths: str = ""
    """Factors of single sites, multiplied in: "middle=0 output.3=0.5". See `site_factors`."""
    unconditional: str = "auto"
    """The unconditional half of guidance gets "nothing", the "average person" (the tokens of an all-zero code), or what
    the adapter was trained for ("auto": nothing for PIDiff's, the average person for W+ Adapter's)."""
    arrangement: str = "anywhere"
    """"left to right": identities without a mask share the faces of the picture in the order of their Apply nodes."""


@dataclass(frozen=True, eq=False)
class Strengths:
    """The product of all strengths that were set: what `combine` returns."""

    tokens: Tensor  # (n): strength times level; the strength of the whole is in here
    sites: Mapping[str, float]  # by site name: preset times the user's factor
    start_percent: float
    end_percent: float
    skip_steps: float  # step i of n gets nothing while i <= skip_steps * n; 0 = no such rule
    uncond_average: bool

    @property
    def is_zero(self) -> bool:
        """Whether the picture stays the same whatever the identity."""
        return self.start_percent >= self.end_percent or not self.tokens.any() or not any(self.sites.values())


def combine(options: ApplyOptions, config: AdapterConfig) -> Strengths:
    """Multiply strength, levels, preset and site factors.

    Raises:
        PIDiffError: an unknown name, or a number that is not finite.
    """
    percents = {"start_percent": options.start_percent, "end_percent": options.end_percent}
    for name, number in {"strength": options.strength, **percents, **options.levels}.items():
        if not math.isfinite(number):
            raise PIDiffError(f"{name} is {number}: expected a finite number, 1 for the adapter as it was trained.")
    for name, value, known in (
        ("unconditional", options.unconditional, UNCONDITIONAL),
        ("arrangement", options.arrangement, ARRANGEMENTS),
        ("preset", options.preset, tuple(PRESETS)),
    ):
        if value not in known:
            raise PIDiffError(f"Unknown {name} '{value}': expected one of {', '.join(known)}.")
    preset = PRESETS[options.preset]
    levels = config.token_levels
    if unknown := sorted(set(options.levels) - set(levels)):
        raise PIDiffError(f"Unknown level {', '.join(unknown)}: the levels are {', '.join(levels)}.")
    tokens = torch.full((config.num_tokens,), float(options.strength))
    for level, where in levels.items():
        tokens[where] *= options.levels.get(level, 1.0) * preset.levels.get(level, 1.0)
    average = options.unconditional == "average person"
    return Strengths(
        tokens=tokens,
        sites=site_factors(options.preset, [spec.name for spec in config.sites], text=options.site_strengths),
        start_percent=max(options.start_percent, preset.start_percent),
        end_percent=min(options.end_percent, preset.end_percent),
        skip_steps=preset.skip_steps,
        uncond_average=config.format == "wplus-adapter" if options.unconditional == "auto" else average,
    )


def depths(names: Sequence[str]) -> dict[str, float]:
    """How deep each site is among those of its adapter: 0 nearest to the full resolution, 1 to the middle block.

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
            or one site, separated by blanks, commas or lines. The longest name that fits a site counts.

    Raises:
        PIDiffError: an unknown preset, a word that is not "site=number", or a site that does not exist.
    """
    if preset not in PRESETS:
        raise PIDiffError(f"Unknown preset '{preset}': the presets are {', '.join(PRESETS)}.")
    own = _parse(text)
    if unknown := [key for key in own if not any(_covers(key, name) for name in names)]:
        raise PIDiffError(
            f"This adapter has no site called {', '.join(unknown)}. Its sites are {', '.join(names)}; "
            "'output' or 'output.3' mean all whose names begin with it."
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
                f"'{word}' is not a site strength: write 'site=number' with a number from 0 to {MAX_FACTOR:g}, such as "
                "'middle=0 output.3=0.5'."
            )
    return factors


def _covers(key: str, name: str) -> bool:
    return name == key or name.startswith(f"{key}.")
