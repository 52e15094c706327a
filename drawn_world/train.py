"""The recipe of the mini bundle: stages that train one after the other, each resumable."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from pidiff_core.mini.detector import DrawnFaceDetector, detection_loss
from pidiff_core.training.loop import LoopConfig, fresh, train
from pidiff_core.training.precision import choose_precision

from .autoencoder import LATENT_CHANNELS, MiniAutoencoder, reconstruction_loss
from .base import TRAIN_STEPS, MiniBase, noise_levels, token_ids, velocity_loss
from .captions import caption
from .crops import as_encountered, labelled_crops, on_white
from .data import PICTURE_PX, Pictures, World, batch_indices
from .judge import Judge, judged_crops, likeness_loss
from .parts import take_part
from .portraits import SPACE, CodeReader, Painter, drawing_loss, reading_loss, trait_features

WORLD = World(seed=1, people=10_000, scenes=4)
JUDGE_WORLD = World(seed=3, people=3_000, scenes=4)  # other people: nothing that the adapter learns from
_ENCODE_BATCH = 100
_ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if _ON_GPU else "cpu")
WORKERS = (os.cpu_count() or 1) // 4 if _ON_GPU else 0  # a GPU would wait for its batches
PACE = 5 if _ON_GPU else 1  # its steps are short: checkpoints and pictures come after more of them
_PHRASES_SHARE = 0.85  # of the captions; the others are read word by word


def _config(steps: int, *, checkpoint_every: int = 200, compiled: bool = False, **options: Any) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        checkpoint_every=checkpoint_every * PACE,
        compiled=compiled,
        workers=WORKERS,
        precision="auto",
        **options,
    )


def autoencoder_stage(
    pictures: Pictures,
    folder: Path,
    *,
    steps: int = 3000,
    batch_size: int = 16,
    compiled: bool = True,
    parts: Path | None = None,
) -> MiniAutoencoder:
    """Stage 1: pictures <-> latents.

    parts: here and below, the training starts from the network in this folder, if there is one (`parts.py`).
    """
    module = fresh(MiniAutoencoder, seed=1).to(memory_format=torch.channels_last)
    if take_part("autoencoder", module, folder=parts):  # the base's part has learned these latents: they stay
        for reading in (module.kl.encoder, module.kl.quant_conv, module.cells.read):
            reading.requires_grad_(False)
        module.normalise.momentum = 0.0
    else:
        sample = np.arange(0, len(pictures.world), max(1, len(pictures.world) // 400))
        module.cells.start_from(pictures.image_batch(sample))

    def batch(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(pictures.world), batch_size, seed=11)
        noise = torch.randn(batch_size, LATENT_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(step))
        return {"images": pictures.image_batch(indices), "masks": pictures.mask_batch(indices), "noise": noise}

    def snapshot(module: nn.Module, step: int) -> None:
        images = pictures.image_batch(np.arange(0, 48, 4)).to(DEVICE)
        output = module.decode(module.encode(images))
        save_grid(torch.cat([images[:6], output[:6], images[6:], output[6:]]), folder / "latest.png", columns=6)

    config = _config(steps, seed=1, learning_rate=2e-3, ema_decay=0.998, compiled=compiled, graphed=True)
    train(module, config, batch=batch, loss=reconstruction_loss, folder=folder, snapshot=snapshot, snapshot_on=None)
    return module


@torch.no_grad()
def cached_latents(pictures: Pictures, autoencoder: MiniAutoencoder, path: Path) -> Tensor:
    """Normalised latents (N, 8, 16, 16) float16 of every picture, computed once."""
    if not path.exists():
        from tqdm import tqdm

        rows = []
        autoencoder.to(DEVICE)
        for start in tqdm(range(0, len(pictures.world), _ENCODE_BATCH), desc="latents", mininterval=20):
            images = pictures.image_batch(np.arange(start, min(start + _ENCODE_BATCH, len(pictures.world))))
            rows.append(encoded(autoencoder, images))
        autoencoder.cpu()
        write_whole(path, lambda part: torch.save(torch.cat(rows), part))
    return torch.load(path, weights_only=True)


def _quickest() -> torch.autocast:
    """The trainer's *auto* precision: bfloat16 takes seven times as long as float32 on a CPU without it."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=choose_precision("auto", DEVICE) == "bf16")


def encoded(autoencoder: MiniAutoencoder, images: Tensor) -> Tensor:
    """Latents (B, 8, h, w) float16, on the CPU, of pictures (B, 3, H, W); the autoencoder is on DEVICE."""
    with _quickest():
        return autoencoder.encode(images.to(DEVICE).contiguous(memory_format=torch.channels_last)).half().cpu()


def base_stage(
    pictures: Pictures,
    latents: Tensor,
    folder: Path,
    *,
    decode: Callable[[Tensor], Tensor],
    steps: int = 3000,
    batch_size: int = 32,
    compiled: bool = True,
    parts: Path | None = None,
) -> MiniBase:
    """Stage 2: captions -> latents. Captions name traits now and then, so that the base can draw every one of them."""
    module = fresh(MiniBase, seed=2)
    take_part("base", module, folder=parts)
    if not _ON_GPU:
        # On a CPU a step takes 0.59 of the time: the fused attention's gradient is slow, and group norm is in
        # channels-last memory.
        from diffusers.models.attention_processor import AttnProcessor

        module.unet.set_attn_processor(AttnProcessor())
    alphas, sigmas = noise_levels()
    masks = pictures.cell_masks

    def batch(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(pictures.world), batch_size, seed=12)
        rng = np.random.default_rng([13, step])
        generator = torch.Generator().manual_seed(step)
        timesteps = torch.randint(0, TRAIN_STEPS, (batch_size,), generator=generator)
        return {
            "latents": latents[indices].float(),
            "noise": torch.randn(batch_size, LATENT_CHANNELS, 16, 16, generator=generator),
            "masks": masks[indices].float(),
            "timesteps": timesteps,
            "alpha": alphas[timesteps][:, None, None, None],
            "sigma": sigmas[timesteps][:, None, None, None],
            "ids": torch.cat(
                [
                    token_ids([training_caption(pictures, index, rng)], phrases=rng.random() < _PHRASES_SHARE)
                    for index in indices
                ]
            ),
        }

    def snapshot(module: nn.Module, step: int) -> None:
        scenes = [pictures.scenes[index] for index in range(12)]
        ids = token_ids(
            [
                caption(scene, pictures.people[i // 4], rng=np.random.default_rng(i), trait_probability=0.7 * (i % 2))
                for i, scene in enumerate(scenes)
            ]
        )
        latents = sample(module, module.context(ids.to(DEVICE)), seed=0)
        save_grid(decode(latents.cpu()), folder / "latest.png", columns=6)

    config = _config(
        steps, seed=2, learning_rate=2e-3, ema_decay=0.999, checkpoint_every=500, compiled=compiled, graphed=True
    )
    train(module, config, batch=batch, loss=velocity_loss, folder=folder, snapshot=snapshot, snapshot_on=None)
    return module


def training_caption(pictures: Pictures, index: int, rng: np.random.Generator) -> str:
    """One wording for picture `index`: empty one time in ten, with none, half or all of the person's traits."""
    if rng.random() < 0.1:
        return ""
    probability = float(rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.2, 0.5]))
    person = pictures.people[index // pictures.world.scenes]
    return caption(pictures.scenes[index], person, rng=rng, trait_probability=probability)


@torch.no_grad()
def sample(
    base: MiniBase, context: Tensor, *, seed: int, steps: int = 20, guidance: float = 3.0, side: int = 16
) -> Tensor:
    """DDIM (eta 0) with classifier-free guidance: context (B, L, W) -> normalised latents (B, 8, side, side)."""
    device = context.device
    alphas, sigmas = (levels.to(device) for levels in noise_levels())
    x = torch.randn(len(context), LATENT_CHANNELS, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    empty = base.context(token_ids([""]).to(device)).expand_as(context)
    both = torch.cat([context, empty])
    times = torch.linspace(TRAIN_STEPS - 1, 0, steps + 1).round().long().to(device)
    for now, after in pairwise(times):
        v_text, v_empty = base(torch.cat([x, x]), now.expand(len(both)), both).float().chunk(2)
        v = v_empty + guidance * (v_text - v_empty)
        clean, noise = alphas[now] * x - sigmas[now] * v, sigmas[now] * x + alphas[now] * v
        x = alphas[after] * clean + sigmas[after] * noise
    return x


def generator_stage(
    pictures: Pictures, folder: Path, *, steps: int = 1500, batch_size: int = 32, parts: Path | None = None
) -> Painter:
    """Stage 3: traits -> aligned head on white."""
    module = fresh(Painter, seed=3)
    if take_part("generator", module, folder=parts):  # the encoder's part has learned this mapping: it stays
        module.generator.style.requires_grad_(False)
        module.readout.requires_grad_(False)

    def batch(step: int) -> dict[str, Tensor]:
        indices = portrait_indices(pictures, step, batch_size, seed=14)
        crops = labelled_crops(pictures, indices, rng=np.random.default_rng([15, step]), jitter=0.0)
        return {"crops": on_white(crops), "features": features_of(pictures, indices)}

    def snapshot(module: nn.Module, step: int) -> None:
        inputs = batch(0)
        w = module.generator.mapping(inputs["features"][:12].to(DEVICE))
        output = module.generator.synthesis(w[:, None].expand(-1, SPACE.num_styles, -1), noise=None)
        save_grid(torch.cat([inputs["crops"][:12], output.cpu()]), folder / "latest.png", columns=12)

    config = _config(
        steps, seed=3, learning_rate=1.5e-2, warmup_steps=100, weight_decay=0.0, ema_decay=0.998, graphed=True
    )
    train(module, config, batch=batch, loss=drawing_loss, folder=folder, snapshot=snapshot, snapshot_on=None)
    return module


def encoder_stage(
    pictures: Pictures,
    painter: Painter,
    folder: Path,
    *,
    steps: int = 1500,
    batch_size: int = 32,
    parts: Path | None = None,
) -> CodeReader:
    """Stage 4: aligned head -> W+ codes."""
    with torch.no_grad():
        features = features_of(pictures, portrait_indices(pictures, 0, min(2000, pictures.world.people), seed=16))
        latent_avg = painter.generator.mapping(features).mean(dim=0).expand(SPACE.num_styles, -1).clone()
    module = fresh(lambda: CodeReader(painter, latent_avg), seed=4)
    take_part("encoder", module.encoder, folder=parts)

    def batch(step: int) -> dict[str, Tensor]:
        indices = portrait_indices(pictures, step, batch_size, seed=17)
        rng = np.random.default_rng([18, step])
        clean = labelled_crops(pictures, indices, rng=rng, jitter=0.0)
        seen = labelled_crops(pictures, indices, rng=rng, jitter=0.03)
        return {
            "crops": on_white(clean),
            "inputs": as_encountered(seen, rng=rng),
            "features": features_of(pictures, indices),
        }

    def snapshot(module: nn.Module, step: int) -> None:
        inputs = batch(0)
        codes = module.encoder(inputs["inputs"][:12]) + module.latent_avg
        output = module.painter.generator.synthesis(codes, noise=None)
        save_grid(torch.cat([inputs["crops"][:12], inputs["inputs"][:12], output]), folder / "latest.png", columns=12)

    config = _config(steps, seed=4, learning_rate=1e-3, ema_decay=0.998)
    train(module, config, batch=batch, loss=reading_loss, folder=folder, snapshot=snapshot)
    return module


@torch.no_grad()
def reconstructed(pictures: Pictures, autoencoder: MiniAutoencoder, path: Path) -> Pictures:
    """The same pictures as the autoencoder returns them, computed once."""
    if not path.exists():
        from tqdm import tqdm

        autoencoder.to(DEVICE)
        images = np.empty(pictures.images.shape, np.uint8)
        for start in tqdm(range(0, len(images), _ENCODE_BATCH), desc="reconstructions", mininterval=20):
            indices = np.arange(start, min(start + _ENCODE_BATCH, len(images)))
            seen = pictures.image_batch(indices).to(DEVICE)
            with _quickest():
                output = autoencoder.decode(autoencoder.encode(seen)).float().cpu()
            images[indices] = rearrange(as_bytes(output), "b c h w -> b h w c").numpy()
        autoencoder.cpu()
        write_whole(path, lambda part: np.save(part, images))
    return replace(pictures, images=np.load(path, mmap_mode="r"))


def detector_stage(
    drawn: Pictures,
    shown: Pictures,
    folder: Path,
    *,
    steps: int = 800,
    batch_size: int = 64,
    parts: Path | None = None,
) -> DrawnFaceDetector:
    """Stage 5: finds drawn faces, in renders and in the autoencoder's reconstructions (`shown`)."""
    module = fresh(DrawnFaceDetector, seed=6)
    take_part("detector", module, folder=parts)

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([19, step])
        indices = batch_indices(step, len(drawn.world), batch_size, seed=20)
        images = torch.cat([drawn.image_batch(indices[::2]), shown.image_batch(indices[1::2])])
        indices = np.concatenate([indices[::2], indices[1::2]])
        points = torch.from_numpy(drawn.landmarks[indices]) / PICTURE_PX
        present = torch.ones(batch_size)
        for row in range(0, batch_size, 8):  # no face: a corner of the picture, enlarged
            x, y = rng.integers(0, 2, 2) * 88
            patch = images[row : row + 1, :, y : y + 40, x : x + 40]
            images[row : row + 1] = F.interpolate(patch, (PICTURE_PX, PICTURE_PX), mode="bilinear")
            present[row] = 0
        small, points = zip(*[_farther_away(image, five, rng) for image, five in zip(images, points)])
        return {"images": torch.cat(small), "points": torch.stack(points), "present": present}

    config = _config(steps, seed=6, learning_rate=3e-3, ema_decay=0.995)
    train(module, config, batch=batch, loss=detection_loss, folder=folder)
    return module


def _farther_away(image: Tensor, points: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(3, 128, 128) -> (1, 3, 64, 64), half of them with a border, down to half their size, as wide pictures come.

    points (5, 2), in parts of the side, before and after.
    """
    border = int(rng.integers(0, PICTURE_PX)) if rng.random() < 0.5 else 0
    left, top = (int(part) for part in rng.integers(0, border + 1, 2))
    pads = (left, border - left, top, border - top)
    is_plain = rng.random() < 0.5  # `DrawnFaceDetector.detect` adds grey; else the picture's edge goes on
    wide = F.pad(image[None], pads, value=0.0) if is_plain else F.pad(image[None], pads, mode="replicate")
    small = F.interpolate(wide, (64, 64), mode="bilinear", antialias=True)
    return small, (points * PICTURE_PX + torch.tensor([left, top])) / (PICTURE_PX + border)


def judge_stage(
    shown: Pictures, folder: Path, *, steps: int = 1000, batch_size: int = 64, parts: Path | None = None
) -> Judge:
    """Stage 6: tells people apart in pictures that went through the autoencoder, roughly aligned.

    batch_size: people in a batch, with two pictures each.
    """
    module = fresh(Judge, seed=7)
    take_part("judge", module, folder=parts)
    scenes = shown.world.scenes
    colour = [
        [i * scenes + k for k in range(scenes) if shown.in_colour[i * scenes + k]] for i in range(shown.world.people)
    ]
    usable = np.array([index for index, pictured in enumerate(colour) if len(pictured) >= 2])

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([21, step])
        chosen = usable[batch_indices(step, len(usable), batch_size, seed=22)]
        pairs = np.array([rng.choice(colour[index], 2, replace=False) for index in chosen])
        indices = pairs.T.reshape(-1)
        points = shown.landmarks[indices] - 0.5
        eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=-1)[:, None, None]
        points = points + rng.standard_normal(points.shape) * 0.05 * eyes
        first, second = judged_crops(shown.image_batch(indices), torch.from_numpy(points).float()).chunk(2)
        return {"first": first, "second": second}

    config = _config(steps, seed=7, learning_rate=2e-3, ema_decay=0.995)
    train(module, config, batch=batch, loss=likeness_loss, folder=folder)
    return module


def portrait_indices(pictures: Pictures, step: int, batch_size: int, *, seed: int) -> np.ndarray:
    """Indices of pictures in colour."""
    colour = np.flatnonzero(pictures.in_colour)
    return colour[batch_indices(step, len(colour), batch_size, seed=seed)]


def features_of(pictures: Pictures, indices: np.ndarray) -> Tensor:
    """(B, NUM_FEATURES) of `trait_features`."""
    scenes = pictures.world.scenes
    return torch.from_numpy(
        np.stack([trait_features(pictures.people[i // scenes], pictures.scenes[i]) for i in indices])
    )


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name and rename it, so that no reader sees half of it."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        write(file)
    part.replace(path)


def as_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().byte()


def save_grid(images: Tensor, path: Path, *, columns: int) -> None:
    """Write (N, 3, H, W) pictures in [-1, 1] as one PNG."""
    grid = rearrange(as_bytes(images), "(r c) k h w -> (r h) (c w) k", c=columns)
    Image.fromarray(grid.cpu().numpy()).save(path)
