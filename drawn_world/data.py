"""The mini world's training pictures: rendered once, kept on disk, the same for the same seed."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pidiff_core.errors import PIDiffError

from .drawn_person import DrawnPerson
from .render import render
from .scene import Scene

PICTURE_PX = 128
_CHUNK = 500


@dataclass(frozen=True)
class World:
    """`people` persons with `scenes` pictures each, all drawn from `seed`.

    Picture i shows person i // scenes. Two worlds of different seeds share no person.
    """

    seed: int
    people: int
    scenes: int

    def __len__(self) -> int:
        return self.people * self.scenes

    def person(self, index: int) -> DrawnPerson:
        """DrawnPerson of person `index`."""
        return DrawnPerson.sample(np.random.default_rng([self.seed, 0, index]))

    def scene(self, index: int, **fixed: object) -> Scene:
        """Scene of picture `index`."""
        return Scene.sample(np.random.default_rng([self.seed, 1, index]), **fixed)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A rendered world, memory-mapped.

    images (N, 128, 128, 3) uint8; masks (N, 128, 128) uint8 0/255, the head; landmarks (N, 5, 2) float32 px.
    """

    world: World
    images: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    people: list[DrawnPerson]
    scenes: list[Scene]

    @cached_property
    def in_colour(self) -> np.ndarray:
        """(N,) bool: a sketch shows neither skin nor hair."""
        return np.array([scene.medium != "sketch" for scene in self.scenes])

    @cached_property
    def cell_masks(self) -> Tensor:
        """(N, 1, 16, 16) float16: the share of the head in each latent cell."""
        rows = [np.arange(start, min(start + _CHUNK, len(self.world))) for start in range(0, len(self.world), _CHUNK)]
        return torch.cat([F.avg_pool2d(self.mask_batch(indices), 8).half() for indices in rows])

    def image_batch(self, indices: np.ndarray) -> Tensor:
        """(B, 3, 128, 128) float32 in [-1, 1]."""
        pixels = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        return pixels.float().div_(127.5).sub_(1)

    def mask_batch(self, indices: np.ndarray) -> Tensor:
        """(B, 1, 128, 128) float32, 1 on the head."""
        return torch.from_numpy(self.masks[indices] > 127).unsqueeze(1).float()


def rendered(world: World, folder: Path) -> Pictures:
    """Render a world into `folder`, or open what is already in it."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "images": ((len(world), PICTURE_PX, PICTURE_PX, 3), np.uint8),
        "masks": ((len(world), PICTURE_PX, PICTURE_PX), np.uint8),
        "landmarks": ((len(world), 5, 2), np.float32),
    }
    stem = f"world-{world.seed}-{world.people}x{world.scenes}"
    paths = {name: folder / f"{stem}-{name}.npy" for name in shapes}
    if not all(path.exists() for path in paths.values()):
        _render_all(world, shapes, paths)
    return Pictures(
        world=world,
        people=[world.person(index) for index in range(world.people)],
        scenes=[world.scene(index) for index in range(len(world))],
        **{name: np.load(path, mmap_mode="r") for name, path in paths.items()},
    )


def _render_all(world: World, shapes: dict, paths: dict[str, Path]) -> None:
    from tqdm import tqdm

    parts = {name: path.with_suffix(".part") for name, path in paths.items()}
    arrays = {
        name: np.lib.format.open_memmap(parts[name], mode="w+", shape=shape, dtype=dtype)
        for name, (shape, dtype) in shapes.items()
    }
    chunks = [(world, start, min(start + _CHUNK, len(world))) for start in range(0, len(world), _CHUNK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for start, chunk in tqdm(pool.map(_render_chunk, chunks), total=len(chunks), desc="rendering"):
            for name, values in chunk.items():
                arrays[name][start : start + len(values)] = values
    for name, array in arrays.items():
        array.flush()
        parts[name].replace(paths[name])


def _render_chunk(job: tuple[World, int, int]) -> tuple[int, dict[str, np.ndarray]]:
    world, start, stop = job
    renderings = [render(world.person(i // world.scenes), world.scene(i), size=PICTURE_PX) for i in range(start, stop)]
    return start, {
        "images": np.stack([one.image for one in renderings]),
        "masks": np.stack([one.face_mask for one in renderings]),
        "landmarks": np.stack([one.landmarks for one in renderings]),
    }


def batch_indices(step: int, count: int, batch: int, *, seed: int) -> np.ndarray:
    """The indices of one step: every index once an epoch; depends on the step alone."""
    per_epoch = count // batch
    if per_epoch == 0:
        raise PIDiffError(f"{count} pictures or people are fewer than a batch of {batch}: draw more people.")
    epoch, place = divmod(step, per_epoch)
    return np.random.default_rng([seed, epoch]).permutation(count)[place * batch : (place + 1) * batch]
