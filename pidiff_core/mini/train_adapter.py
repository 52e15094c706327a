"""The mini adapter's training: the two-stage strategy of `pidiff_core.training.strategy` on drawn people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import AdapterConfig
from ..adapter.diffusers_processor import cross_attention_sites
from ..e4e.encoder import E4eEncoder
from ..training.loop import LoopConfig, fresh, train
from ..training.strategy import IdentityTraining, StrategyConfig, strategy_loss
from .autoencoder import MiniAutoencoder
from .base import CONTEXT_WIDTH, TRAIN_STEPS, MiniBase, noise_levels, token_ids
from .captions import caption
from .crops import as_encountered, labelled_crops, on_white
from .data import PICTURE_PX, Pictures, batch_indices
from .portraits import SPACE
from .train import write_whole

NEUTRAL_CAPTION = "a photo of a person"
_CHUNK = 100


@dataclass(frozen=True, eq=False)
class IdentityData:
    """What both stages read. A person's reference is always another picture of theirs than the one to be made."""

    pictures: Pictures
    latents: Tensor  # (N, 4, 16, 16): the pictures
    offsets: Tensor  # (N, S, D): what the encoder reads in each, as encountered
    portraits: Tensor  # (P, 4, 16, 16): one aligned head on white for each person
    portrait_masks: Tensor  # (P, 1, 16, 16)
    portrait_of: np.ndarray  # (P,) the picture each was cut from
    colour: np.ndarray  # (N,) bool: not a sketch

    @property
    def code_std(self) -> Tensor:
        """(S, D): spread of the offsets over people."""
        return self.offsets[torch.from_numpy(self.colour)].float().std(dim=0).clamp_min(1e-3)

    def reference(self, index: int, rng: np.random.Generator) -> int:
        """Another picture, in colour, of the person in picture `index` (the same one where there is no other)."""
        scenes = self.pictures.world.scenes
        first = index // scenes * scenes
        others = [other for other in range(first, first + scenes) if other != index and self.colour[other]]
        return int(rng.choice(others)) if others else index


@torch.no_grad()
def identity_data(
    pictures: Pictures, latents: Tensor, *, autoencoder: MiniAutoencoder, encoder: E4eEncoder, path: Path
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

        offsets, portraits, masks = [], [], []
        for start in tqdm(range(0, len(pictures.world), _CHUNK), desc="codes", mininterval=20):
            indices, rng = (
                np.arange(start, min(start + _CHUNK, len(pictures.world))),
                np.random.default_rng([23, start]),
            )
            crops = labelled_crops(pictures, indices, rng=rng, jitter=0.03)
            offsets.append(encoder(as_encountered(crops, rng=rng)).half())
        for start in tqdm(range(0, len(portrait_of), _CHUNK), desc="portraits", mininterval=20):
            indices = portrait_of[start : start + _CHUNK]
            rng = np.random.default_rng([23, start])
            crops = labelled_crops(pictures, indices, rng=rng, jitter=0.0, size=PICTURE_PX)
            with torch.autocast("cpu", torch.bfloat16):
                portraits.append(autoencoder.encode(on_white(crops)).half())
            masks.append(F.avg_pool2d(crops[:, 3:], 8).half())
        whole = [torch.cat(parts) for parts in (offsets, portraits, masks)]
        write_whole(path, lambda part: torch.save(whole, part))
    offsets, portraits, masks = torch.load(path, weights_only=True)
    return IdentityData(pictures, latents, offsets, portraits, masks, portrait_of, colour)


def new_adapter(base: MiniBase, data: IdentityData) -> IdentityAdapter:
    """An untrained adapter for the mini base."""
    config = AdapterConfig(
        sites=cross_attention_sites(base.unet),
        num_styles=SPACE.num_styles,
        code_width=SPACE.width,
        token_width=CONTEXT_WIDTH,
        hidden=128,
        mixer_layers=1,
    )
    adapter = fresh(lambda: IdentityAdapter(config), seed=8)
    adapter.projection.code_std.copy_(data.code_std)
    return adapter


def extract_stage(
    base: MiniBase, adapter: IdentityAdapter, data: IdentityData, folder: Path, *, steps: int, batch_size: int = 32
) -> None:
    """Stage 7: aligned heads on white, a neutral caption, the noise loss on the head only."""
    with torch.no_grad():
        context = base.context(token_ids([NEUTRAL_CAPTION])).expand(batch_size, -1, -1)

    def batch(step: int) -> dict[str, Tensor]:
        chosen = batch_indices(step, len(data.portrait_of), batch_size, seed=24)
        rng = np.random.default_rng([25, step])
        references = [data.reference(int(data.portrait_of[person]), rng) for person in chosen]
        return {
            **noised(data.portraits[chosen].float(), step=step),
            "context": context,
            "offsets": data.offsets[references].float(),
            "mask": data.portrait_masks[chosen].float(),
        }

    module = IdentityTraining(base.unet, adapter, config=StrategyConfig("extract"))
    config = LoopConfig(
        steps=steps, learning_rate=2e-3, warmup_steps=50, final_rate=0.3, ema_decay=0.99, seed=8, compiled=False
    )
    train(module, config, batch=batch, loss=strategy_loss, folder=folder)
    module.binding.detach()


def localise_stage(
    base: MiniBase, adapter: IdentityAdapter, data: IdentityData, folder: Path, *, steps: int, batch_size: int = 32
) -> None:
    """Stage 8: whole pictures with captions that name no trait, and the head's mask."""

    def batch(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(data.pictures.world), batch_size, seed=26)
        rng = np.random.default_rng([27, step])
        texts = [caption(data.pictures.scenes[index], rng=rng) for index in indices]
        with torch.no_grad():
            context = base.context(token_ids(texts))
        references = [data.reference(int(index), rng) for index in indices]
        return {
            **noised(data.latents[indices].float(), step=step),
            "context": context,
            "offsets": data.offsets[references].float(),
            "mask": F.avg_pool2d(data.pictures.mask_batch(indices), 8),
        }

    module = IdentityTraining(base.unet, adapter, config=StrategyConfig("localise"))
    config = LoopConfig(steps=steps, learning_rate=2e-3, warmup_steps=50, ema_decay=0.995, seed=9, compiled=False)
    train(module, config, batch=batch, loss=strategy_loss, folder=folder)
    module.binding.detach()


def noised(latents: Tensor, *, step: int) -> dict[str, Tensor]:
    """noisy and target (v) of clean latents (B, 4, h, w), timesteps (B,); all from the step."""
    alphas, sigmas = noise_levels()
    generator = torch.Generator().manual_seed(step)
    timesteps = torch.randint(0, TRAIN_STEPS, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    alpha, sigma = alphas[timesteps][:, None, None, None], sigmas[timesteps][:, None, None, None]
    return {"noisy": alpha * latents + sigma * noise, "target": alpha * noise - sigma * latents, "timesteps": timesteps}
