"""Domain randomisation: spoils drawn pictures, so that an encoder trained on them also reads real photos."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _field(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise (H, W) of about -1..1 with `cells` bumps a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _warped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move features by up to about 3 % of the picture: real faces do not have drawn proportions."""
    height, width, _ = image.shape
    reach = rng.uniform(0.005, 0.03)
    y, x = np.mgrid[0:height, 0:width]
    y = np.clip(y + _field(rng, height, width, 5) * (reach * height), 0, height - 1.001)
    x = np.clip(x + _field(rng, height, width, 5) * (reach * width), 0, width - 1.001)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[..., None], (x - x0)[..., None]
    flat = image.reshape(-1, 3)
    corner = y0 * width + x0
    top = flat[corner] * (1 - fx) + flat[corner + 1] * fx
    bottom = flat[corner + width] * (1 - fx) + flat[corner + width + 1] * fx
    return top * (1 - fy) + bottom * fy


def domain_randomise(image_uint8: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spoilt copy of an image (H, W, 3) uint8.

    Each of these with its own probability and amount: shape warp, blur, texture as of skin and hair, lighting gradient,
    gamma, contrast, colour cast, desaturation, noise, JPEG. All randomness comes from `rng`. ValueError on another
    shape or type.
    """
    if image_uint8.ndim != 3 or image_uint8.shape[2] != 3 or image_uint8.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image_uint8.shape} {image_uint8.dtype}")
    height, width, _ = image_uint8.shape
    happens = rng.random(10)
    image: np.ndarray = image_uint8.astype(np.float32)
    if happens[0] < 0.6:
        image = _warped(image, rng)
    if happens[1] < 0.6:
        # Blur hides the drawn outlines, which photos do not have.
        radius = rng.uniform(0.3, 1.5) * width / 128
        pixels = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        image = np.asarray(pixels.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    image = image / 255
    if happens[2] < 0.6:
        fine = _field(rng, height, width, max(4, width // 4))
        image = image * (1 + rng.uniform(0.02, 0.12) * fine[..., None])
    if happens[3] < 0.7:
        image = image * (1 + rng.uniform(0.05, 0.35) * _field(rng, height, width, 3)[..., None])
    image = image.clip(1e-3, 1)
    if happens[4] < 0.6:
        image = image ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))
    if happens[5] < 0.5:
        image = (image - 0.5) * np.float32(rng.uniform(0.65, 1.2)) + 0.5
    if happens[6] < 0.6:
        image = image * rng.uniform(0.86, 1.14, 3).astype(np.float32)
    if happens[7] < 0.5:
        grey = (image @ _LUMA)[..., None]
        image = grey + (image - grey) * np.float32(rng.uniform(0.3, 1.1))
    if happens[8] < 0.5:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.01, 0.06))
    result = (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    if happens[9] < 0.4:
        packed = BytesIO()
        Image.fromarray(result).save(packed, "JPEG", quality=int(rng.integers(35, 90)))
        result = np.asarray(Image.open(packed).convert("RGB"))
    return result
