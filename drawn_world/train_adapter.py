"""The mini adapter's training: the trainer that users run, on drawn people that are kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.training.bases.base import Base, Parts, TextCondition, schedule
from pidiff_core.training.loop import LoopConfig
from pidiff_core.training.stages import AdapterOptions, new_adapter, train_stage
from pidiff_core.training.strategy import StrategyConfig

from .autoencoder import LATENT_SCALE, MiniAutoencoder
from .base import BETA_END, BETA_START, CONTEXT_WIDTH, MiniBase, token_ids
from .captions import caption
from .crops import as_encountered, labelled_crops, on_white
from .data import PICTURE_PX, Pictures, batch_indices
from .portraits import SPACE
from .train import DEVICE, PACE, WORKERS, encoded, write_whole

NEUTRAL_CAPTION = "a photo of a person"
_CHUNK = 100


@dataclass(frozen=True, eq=False)
class DrawnBatch:
    """Rows as the trainer reads them: see `TrainingBatch`."""

    latents: Tensor
    context: Tensor
    face_mask: Tensor
    codes: Tensor
    other_codes: Tensor
    pooled: None = None
    size_conditions: None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class IdentityData:
    """What both stages read. A person's reference is always another picture of theirs than the one to be made."""

    base: MiniBase
    pictures: Pictures
    latents: Tensor  # (N, C, 16, 16): the pictures
    offsets: Tensor  # (N, S, D): what the encoder reads in each, as encountered
    portraits: Tensor  # (P, C, 16, 16): one aligned head on white for each person
    portrait_masks: Tensor  # (P, 1, 16, 16)
    portrait_of: np.ndarray  # (P,) the picture each was cut from
    colour: np.ndarray  # (N,) bool: not a sketch
    space = SPACE

    @property
    def code_std(self) -> Tensor:
        """(S, D): spread of the offsets over people."""
        return self.offsets[torch.from_numpy(self.colour)].float().std(dim=0).clamp_min(1e-3)

    @property
    def null_text(self) -> TextCondition:
        """The empty caption."""
        return self._text([""])

    def reference(self, index: int, rng: np.random.Generator) -> int:
        """Another picture, in colour, of the person in picture `index`, or the same one if there is no other."""
        scenes = self.pictures.world.scenes
        first = index // scenes * scenes
        others = [other for other in range(first, first + scenes) if other != index and self.colour[other]]
        return int(rng.choice(others)) if others else index

    def batch(
        self, step: int, size: int, *, seed: int, kind: str, rank: int = 0, world: int = 1, **_: float
    ) -> DrawnBatch:
        """A step's rows. "aligned": heads on white, a neutral caption; "wild": pictures, no trait in a caption."""
        rows = slice(rank * size // world, (rank + 1) * size // world)
        rng = np.random.default_rng([seed, 27, step])
        if kind == "aligned":
            people = batch_indices(step, len(self.portrait_of), size, seed=seed)
            indices = self.portrait_of[people]
            latents, masks = self.portraits[people], self.portrait_masks[people]
            texts = [NEUTRAL_CAPTION] * size
        else:
            indices = batch_indices(step, len(self.pictures.world), size, seed=seed)
            latents, masks = self.latents[indices], self.pictures.cell_masks[indices]
            texts = [caption(self.pictures.scenes[index], rng=rng) for index in indices]
        codes = self.offsets[[self.reference(int(index), rng) for index in indices]].float()
        return DrawnBatch(
            latents=latents[rows].float(),
            context=self._text(texts[rows]).context,
            face_mask=masks[rows].float(),
            codes=codes[rows],
            other_codes=codes.roll(1, dims=0)[rows],
        )

    @torch.no_grad()
    def _text(self, texts: list[str]) -> TextCondition:
        device = next(self.base.text.parameters()).device
        return TextCondition(self.base.context(token_ids(texts).to(device)).cpu())


@torch.no_grad()
def identity_data(
    base: MiniBase,
    pictures: Pictures,
    latents: Tensor,
    *,
    autoencoder: MiniAutoencoder,
    encoder: E4eEncoder,
    path: Path,
) -> IdentityData:
    """Encode every picture and one portrait a person, once; kept in `path`."""
    colour = pictures.in_colour
    scenes = pictures.world.scenes
    portrait_of = np.array(
        [
            next((i for i in range(p * scenes, (p + 1) * scenes) if colour[i]), p * scenes)
            for p in range(pictures.world.people)
        ]
    )
    if not path.exists():
        from tqdm import tqdm

        autoencoder.to(DEVICE), encoder.to(DEVICE)
        offsets, portraits, masks = [], [], []
        for start in tqdm(range(0, len(pictures.world), _CHUNK), desc="codes", mininterval=20):
            indices, rng = (
                np.arange(start, min(start + _CHUNK, len(pictures.world))),
                np.random.default_rng([23, start]),
            )
            crops = labelled_crops(pictures, indices, rng=rng, jitter=0.03)
            offsets.append(encoder(as_encountered(crops, rng=rng).to(DEVICE)).half().cpu())
        for start in tqdm(range(0, len(portrait_of), _CHUNK), desc="portraits", mininterval=20):
            indices = portrait_of[start : start + _CHUNK]
            rng = np.random.default_rng([23, start])
            crops = labelled_crops(pictures, indices, rng=rng, jitter=0.0, size=PICTURE_PX)
            portraits.append(encoded(autoencoder, on_white(crops)))
            masks.append(F.avg_pool2d(crops[:, 3:], 8).half())
        autoencoder.cpu(), encoder.cpu()
        whole = [torch.cat(parts) for parts in (offsets, portraits, masks)]
        write_whole(path, lambda part: torch.save(whole, part))
    offsets, portraits, masks = torch.load(path, weights_only=True)
    return IdentityData(base, pictures, latents, offsets, portraits, masks, portrait_of, colour)


def trained_base(base: MiniBase) -> Base:
    """The mini base in training as the trainer sees every base."""

    def unused() -> None:
        raise NotImplementedError("the drawn world keeps latents and texts itself")

    return Base(
        name="the mini base",
        family="mini",
        prediction="v",
        alphas_cumprod=schedule(beta_start=BETA_START, beta_end=BETA_END),
        context_width=CONTEXT_WIDTH,
        latent_channels=base.unet.config.in_channels,
        latent_scale=LATENT_SCALE,
        parts=Parts(unet=lambda: base.unet, autoencoder=unused, text=unused, weights=dict),
        device=torch.device("cpu"),
    )


def new_mini_adapter(base: MiniBase) -> IdentityAdapter:
    """An untrained adapter for the mini base; its codes' unit is 1."""
    unit = SimpleNamespace(space=SPACE, code_std=torch.ones(SPACE.num_styles, SPACE.width))
    return new_adapter(trained_base(base), unit, AdapterOptions(hidden=128, mixer_layers=1), seed=8)


def extract_stage(
    base: MiniBase, adapter: IdentityAdapter, data: IdentityData, folder: Path, *, steps: int, batch_size: int = 32
) -> None:
    """Stage 7: aligned heads on white, a neutral caption, the noise loss on the head only."""
    ending = {"final_rate": 0.3, "ema_decay": 0.99}
    _stage("extract", base, adapter, data, folder, steps=steps, batch_size=batch_size, seed=8, **ending)


def localise_stage(
    base: MiniBase, adapter: IdentityAdapter, data: IdentityData, folder: Path, *, steps: int, batch_size: int = 32
) -> None:
    """Stage 8: whole pictures with captions that name no trait, and the head's mask."""
    ending = {"final_rate": 0.02, "ema_decay": 0.995}
    _stage("localise", base, adapter, data, folder, steps=steps, batch_size=batch_size, seed=9, **ending)


def _stage(
    stage: str,
    base: MiniBase,
    adapter: IdentityAdapter,
    data: IdentityData,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    final_rate: float,
    ema_decay: float,
    seed: int,
) -> None:
    train_stage(
        trained_base(base),
        adapter,
        data,
        stage=stage,
        size=batch_size,
        strategy=StrategyConfig(drop_identity=0, drop_text=0, drop_both=0, extra_fraction=0.25),
        loop=LoopConfig(
            steps=steps,
            learning_rate=2e-3,
            warmup_steps=50,
            final_rate=final_rate,
            ema_decay=ema_decay,
            seed=seed,
            checkpoint_every=200 * PACE,
            compiled=False,
            graphed=True,
            precision="auto",
            workers=4 * WORKERS,
        ),
        folder=folder,
    )
