"""The method beside its relatives, and without each of its parts: recipes that train and are measured alike.

Every recipe trains an adapter of the same number of parameters, on the same frozen base, the same drawn people and the
same number of steps. The relatives are their published recipes as far as the drawn world allows: four tokens and a
query from the text output (W+ Adapter), one pooled code to four tokens (IP-Adapter's kind).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.training.bases.base import Base, TextCondition
from pidiff_core.training.diffusers_processor import cross_attention_sites
from pidiff_core.training.loop import LoopConfig, fresh
from pidiff_core.training.stages import train_stage
from pidiff_core.training.strategy import StrategyConfig

from .captions import caption
from .crops import as_encountered, labelled_crops, on_white
from .data import PICTURE_PX, Pictures, batch_indices
from .portraits import SPACE
from .train import write_whole
from .train_adapter import NEUTRAL_CAPTION, DrawnBatch

_CHUNK = 100
_FOUR = 4  # tokens of the relatives
_HIDDEN = 128  # width of the hidden layer in PIDiff's projection; the others' follow from the number of parameters


@dataclass(frozen=True)
class Recipe:
    """What one recipe does differently; the defaults are PIDiff's."""

    name: str
    meaning: str
    query: str = "host"
    """Queries of the branch: "host" or "text"."""
    tokens: str = "styles"
    """ "styles": one a style; "groups": four, of four groups of styles; "pooled": four, of the mean code."""
    null_key: bool = True
    two_stages: bool = True
    """Extract, then localise with the projection frozen; else the steps of both with everything trained."""
    first_stage: str = "extract"
    """Kind of the first stage: "extract", or "localise" for whole pictures from the beginning."""
    other_picture: bool = True
    """The code comes from another picture of the person; else from the picture itself."""
    background_removed: bool = True
    """From the encoder's crop and the aligned heads of the first stage."""
    strategy: Mapping[str, float] = field(default_factory=dict)
    """Fields of StrategyConfig in the localise stage."""


_NOISE_ONLY = {"outside": 1.0, "kept_background": 0.0, "disentanglement": 0.0, "localisation": 0.0}
RECIPES: tuple[Recipe, ...] = (
    Recipe("PIDiff", "the method"),
    Recipe(
        "W+ Adapter", "four tokens, query from the text output, its losses, code of the picture itself",
        query="text", tokens="groups", null_key=False, first_stage="localise", other_picture=False,
        strategy=_NOISE_ONLY | {"kept_background": 1.0, "disentanglement": 2.0},
    ),
    Recipe(
        "IP-Adapter kind", "four tokens of one pooled code, noise loss only, code of the picture itself",
        tokens="pooled", null_key=False, two_stages=False, other_picture=False, strategy=_NOISE_ONLY,
    ),
    Recipe("no background removal", "codes and first stage with what is behind the head", background_removed=False),
    Recipe("no null key", "every pixel takes from the identity", null_key=False, strategy={"localisation": 0.0}),
    Recipe("no localisation loss", "the null key without masks", strategy={"localisation": 0.0}),
    Recipe("no background term", "", strategy={"kept_background": 0.0}),
    Recipe("no disentanglement term", "", strategy={"disentanglement": 0.0}),
    Recipe("one stage", "whole pictures from the beginning, everything trained", two_stages=False),
    Recipe("four tokens", "of four groups of styles, not one a style", tokens="groups"),
    Recipe("code of the same picture", "", other_picture=False),
)  # fmt: skip


class FourTokens(nn.Module):
    """Four tokens of four groups of styles, or of the mean code: two layers, one LayerNorm.

    Args:
        pooled: of the mean code.
        hidden: width between the layers.
    """

    code_std: Tensor

    def __init__(self, *, pooled: bool, hidden: int, token_width: int) -> None:
        super().__init__()
        self.pooled = pooled
        self.register_buffer("code_std", torch.ones(SPACE.num_styles, SPACE.width))
        self.bounds = [round(group * SPACE.num_styles / _FOUR) for group in range(_FOUR + 1)]
        widths = [
            SPACE.width * (1 if pooled else after - before) for before, after in zip(self.bounds, self.bounds[1:])
        ]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, token_width)) for width in widths
        )
        self.norm = nn.LayerNorm(token_width)

    def forward(self, offsets: Tensor) -> Tensor:
        """Offset codes (B, S, D) -> tokens (B, 4, W)."""
        offsets = offsets / self.code_std
        if self.pooled:
            parts = [reduce(offsets, "b s d -> b d", "mean")] * _FOUR
        else:
            parts = [rearrange(offsets[:, before:after], "b s d -> b (s d)") for before, after in pairwise(self.bounds)]
        return self.norm(torch.stack([layer(part) for layer, part in zip(self.layers, parts)], dim=1))


def recipe_adapter(base: Base, data: ComparisonData, recipe: Recipe, *, seed: int) -> IdentityAdapter:
    """An untrained adapter of the recipe, as nearly of PIDiff's number of parameters as a hidden width allows."""
    hidden = _HIDDEN
    if recipe.tokens != "styles" or recipe.query != "host":
        with torch.device("meta"):  # only counted
            wanted = _parameters(_built(base, RECIPES[0], hidden=_HIDDEN))
            counts = {width: _parameters(_built(base, recipe, hidden=width)) for width in range(8, 1025, 8)}
        hidden = min(counts, key=lambda width: abs(counts[width] - wanted))
    adapter = fresh(lambda: _built(base, recipe, hidden=hidden), seed=seed)
    adapter.projection.code_std.copy_(data.code_std)
    return adapter


def _built(base: Base, recipe: Recipe, *, hidden: int) -> IdentityAdapter:
    config = AdapterConfig(
        sites=cross_attention_sites(base.unet),
        num_styles=SPACE.num_styles,
        code_width=SPACE.width,
        token_width=base.context_width,
        query=recipe.query,
        hidden=hidden,
        mixer_layers=1,
        family=base.family,
    )
    adapter = IdentityAdapter(config)
    if recipe.tokens != "styles":
        adapter.projection = FourTokens(pooled=recipe.tokens == "pooled", hidden=hidden, token_width=base.context_width)
    if not recipe.null_key:
        for branch in adapter.sites.values():
            branch.null_key = None
    return adapter


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, eq=False)
class ComparisonData:
    """Drawn people as the trainer reads them, prepared as one recipe wants them."""

    recipe: Recipe
    base: Base
    pictures: Pictures
    latents: Tensor  # (N, C, h, w): the pictures
    offsets: Tensor  # (N, S, D): what the encoder reads in each
    portraits: Tensor  # (P, C, h, w): one aligned head for each person
    portrait_masks: Tensor  # (P, 1, h, w)
    portrait_of: np.ndarray  # (P,) the picture each was cut from
    space = SPACE

    @property
    def code_std(self) -> Tensor:
        """(S, D): spread of the offsets over people."""
        colour = torch.from_numpy(self.pictures.in_colour)
        return self.offsets[colour].float().std(dim=0).clamp_min(1e-3)

    @property
    def null_text(self) -> TextCondition:
        """The empty caption."""
        return self.base.encode_text([""])

    def batch(
        self, step: int, size: int, *, seed: int, kind: str, rank: int = 0, world: int = 1, **_: float
    ) -> DrawnBatch:
        """A step's rows; see `IdentityData.batch`."""
        rows = slice(rank * size // world, (rank + 1) * size // world)
        rng = np.random.default_rng([seed, 27, step])
        if kind == "aligned":
            people = batch_indices(step, len(self.portrait_of), size, seed=seed)
            indices, latents, masks = self.portrait_of[people], self.portraits[people], self.portrait_masks[people]
            texts = [NEUTRAL_CAPTION] * size
        else:
            indices = batch_indices(step, len(self.pictures.world), size, seed=seed)
            latents = self.latents[indices]
            masks = F.interpolate(self.pictures.mask_batch(indices), latents.shape[-2:], mode="area")
            texts = [caption(self.pictures.scenes[index], rng=rng) for index in indices]
        codes = self.offsets[[self._reference(int(index), rng) for index in indices]].float()
        return DrawnBatch(
            latents=latents[rows].float(),
            context=self.base.encode_text(texts[rows]).context,
            face_mask=masks[rows].float(),
            codes=codes[rows],
            other_codes=codes.roll(1, dims=0)[rows],
        )

    def _reference(self, index: int, rng: np.random.Generator) -> int:
        scenes = self.pictures.world.scenes
        first = index // scenes * scenes
        colour = [one for one in range(first, first + scenes) if self.pictures.in_colour[one]]
        others = [one for one in colour if one != index] if self.recipe.other_picture else [index]
        return int(rng.choice(others)) if others else index


@torch.no_grad()
def comparison_data(
    base: Base, encoder: E4eEncoder, pictures: Pictures, recipe: Recipe, *, folder: Path
) -> ComparisonData:
    """Encode pictures, aligned heads and codes, once for each kind of preparation; kept in `folder`."""
    background = "removed" if recipe.background_removed else "kept"
    count, scenes = len(pictures.world), pictures.world.scenes
    colour = pictures.in_colour
    portrait_of = np.array([
        next((i for i in range(first, first + scenes) if colour[i]), first) for first in range(0, count, scenes)
    ])  # fmt: skip
    latents = _once(folder / "latents.pt", lambda: [
        base.encode_images(pictures.image_batch(part)).half() for part in _parts(np.arange(count))
    ])  # fmt: skip

    def codes() -> list[Tensor]:
        rows = []
        for part in _parts(np.arange(count)):
            rng = np.random.default_rng([23, int(part[0])])
            crops = labelled_crops(pictures, part, rng=rng, jitter=0.03)
            seen = crops if recipe.background_removed else torch.cat([crops[:, :3], torch.ones_like(crops[:, 3:])], 1)
            rows.append(encoder(as_encountered(seen, rng=rng) if recipe.background_removed else seen[:, :3]).half())
        return rows

    def heads(masks: bool) -> list[Tensor]:
        rows = []
        for part in _parts(portrait_of):
            crops = labelled_crops(pictures, part, rng=np.random.default_rng(0), jitter=0.0, size=PICTURE_PX)
            shown = on_white(crops) if recipe.background_removed else crops[:, :3]
            rows.append(
                F.interpolate(crops[:, 3:], latents.shape[-2:], mode="area") if masks else base.encode_images(shown)
            )
        return [row.half() for row in rows]

    return ComparisonData(
        recipe=recipe,
        base=base,
        pictures=pictures,
        latents=latents,
        offsets=_once(folder / f"codes-{background}.pt", codes),
        portraits=_once(folder / f"heads-{background}.pt", lambda: heads(False)),
        portrait_masks=_once(folder / "head-masks.pt", lambda: heads(True)),
        portrait_of=portrait_of,
    )


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]


def _once(path: Path, make: object) -> Tensor:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = torch.cat(make())  # type: ignore[operator]
        write_whole(path, lambda part: torch.save(whole, part))
    return torch.load(path, weights_only=True)


def train_recipe(
    base: Base, data: ComparisonData, adapter: IdentityAdapter, folder: Path, *, steps: tuple[int, int], seed: int
) -> None:
    """Both stages of a recipe, in place; resumes from `folder`.

    steps: of the first and the second stage; a recipe of one stage takes their sum.
    """
    recipe = data.recipe
    plain = StrategyConfig(drop_identity=0.0, drop_text=0.0, drop_both=0.0, extra_fraction=0.25)
    last = replace(plain, **recipe.strategy, train_projection=not recipe.two_stages or recipe.first_stage != "extract")
    first = replace(plain, **_NOISE_ONLY, train_projection=True) if recipe.first_stage == "localise" else plain
    plan = [(recipe.first_stage, first, steps[0]), ("localise", last, steps[1])]
    if not recipe.two_stages:
        plan = [("localise", last, sum(steps))]
    for index, (stage, strategy, count) in enumerate(plan):
        loop = LoopConfig(
            steps=count, learning_rate=2e-3, warmup_steps=50, final_rate=0.02 if index == len(plan) - 1 else 0.3,
            ema_decay=0.995, precision="auto", compiled=False, seed=100 * seed + index,
        )  # fmt: skip
        train_stage(
            base,
            adapter,
            data,
            stage=stage,
            size=32,
            strategy=strategy,
            loop=loop,
            folder=folder / f"stage-{index + 1}",
        )
