"""The medium of a picture: photo, painting or pencil sketch, and the light that falls on it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter


def apply_light(image: np.ndarray, *, light: float, brightness: float) -> np.ndarray:
    """Light an image (H, W, 3) uint8 from the left (-1) or the right (1); returns uint8."""
    across = np.linspace(-1, 1, image.shape[1], dtype=np.float32) * (0.13 * light) + brightness
    down = np.linspace(0.03, -0.03, image.shape[0], dtype=np.float32)
    lit = image * (across[None, :] + down[:, None])[..., None]
    return np.minimum(lit, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _strokes(height: int, width: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """Slanted strokes: the flat index each pixel takes its colour from, and the stroke's light (H, W, 1)."""
    rng = np.random.default_rng(variant)
    cell = max(3.6 * width / 128, 1.5)
    rows, columns = int(height / cell) + 2, int(width / cell) + 2
    grid_y, grid_x = np.mgrid[0:rows, 0:columns].reshape(2, -1) * cell
    seeds = np.stack([grid_y, grid_x], axis=1) + rng.uniform(-0.5, 0.5, (rows * columns, 2)) * cell
    y, x = np.mgrid[0:height, 0:width]
    best, owner = np.full((height, width), np.inf), np.zeros((height, width), int)
    slant = rng.uniform(0.6, 1.0)
    for index, (seed_y, seed_x) in enumerate(seeds):
        reach = int(4 * cell)
        top, left = max(0, int(seed_y) - reach), max(0, int(seed_x) - reach)
        part = np.s_[top : int(seed_y) + reach, left : int(seed_x) + reach]
        dy, dx = y[part] - seed_y, x[part] - seed_x
        along, across = dx * np.cos(slant) - dy * np.sin(slant), dx * np.sin(slant) + dy * np.cos(slant)
        distance = (along / 2.2) ** 2 + across**2
        closer = distance < best[part]
        best[part] = np.where(closer, distance, best[part])
        owner[part] = np.where(closer, index, owner[part])
    centre = seeds[owner]
    # Colours are taken only part of the way to the stroke's centre, so that eyes and glasses keep their shapes.
    from_y = np.clip(np.rint(y + 0.42 * (centre[..., 0] - y)), 0, height - 1).astype(int)
    from_x = np.clip(np.rint(x + 0.42 * (centre[..., 1] - x)), 0, width - 1).astype(int)
    light = rng.uniform(-9, 9, len(seeds))[owner][..., None]
    return (from_y * width + from_x), light.astype(np.float32)


def _painting(image: np.ndarray, *, seed: int) -> np.ndarray:
    height, width, _ = image.shape
    source, light = _strokes(height, width, seed % 8)
    strokes = image.reshape(-1, 3)[source.ravel()].reshape(image.shape).astype(np.float32)
    # Fewer, warmer colours, near enough to the originals to tell hair from skin.
    poster = np.floor(strokes / 20) * 20 + 10
    warm = poster * np.array([1.03, 1.0, 0.90], np.float32) + np.array([6, 3, 0], np.float32)
    painted = (warm + light).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(painted).filter(ImageFilter.SMOOTH))


@lru_cache(maxsize=8)
def _hatching(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] * (128 / width)
    return (0.5 + 0.5 * np.sin((x + y) * 1.2)).astype(np.float32)[..., None]


def _sketch(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    grey_image = Image.fromarray(image).convert("L")
    grey = np.asarray(grey_image, np.float32)[..., None]
    around = np.asarray(grey_image.filter(ImageFilter.BoxBlur(2.5 * width / 128)), np.float32)[..., None]
    # Division by the surroundings leaves contours; a weak wash and hatching keep what is dark apart from what is light.
    lines = ((grey + 12) / (around + 12)).clip(0.3, 1)
    dark = 1 - grey / 255
    tone = 1 - 0.42 * dark - 0.07 * dark * _hatching(height, width)
    paper = np.array([250, 246, 236], np.float32) * lines * tone
    return (paper + 0.10 * (image - grey)).clip(0, 255).astype(np.uint8)


def apply_medium(image: np.ndarray, medium: str, *, seed: int) -> np.ndarray:
    """An image (H, W, 3) uint8 as a "photo" (unchanged), "painting" or "sketch"."""
    if medium == "painting":
        return _painting(image, seed=seed)
    return _sketch(image) if medium == "sketch" else image
