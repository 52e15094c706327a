"""Aspect buckets: the sizes that photos are trained at, and which part of a photo its crop takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...errors import PIDiffError
from ...images import resize_bchw

_MAX_ZOOM = 2.0  # of the further crops: beyond it a photo shows little but its blur

Size = tuple[int, int]  # height, width in px


@dataclass(frozen=True)
class CropBox:
    """A crop: the photo is resized to `resized_px`, then `size_px` is cut out at (top, left), all in px."""

    resized_px: Size
    size_px: Size
    top: int
    left: int

    def cut(self, image_bchw: Tensor) -> Tensor:
        """Cut it out of a photo, or of a mask in the photo's frame: (B, C, H, W) -> (B, C, *size_px)."""
        height, width = self.size_px
        resized = resize_bchw(image_bchw, self.resized_px)
        return resized[..., self.top : self.top + height, self.left : self.left + width]


def bucket_sizes(resolution: int, *, step_px: int = 64) -> list[Size]:
    """Every (height, width) that is used at this resolution.

    Sides are multiples of `step_px` from half to twice the resolution, with at most resolution^2 pixels.

    >>> bucket_sizes(128)
    [(64, 192), (64, 256), (128, 128), (192, 64), (256, 64)]
    """
    least = max(step_px, resolution // 2 // step_px * step_px)
    sides = range(least, 2 * resolution + 1, step_px)
    sizes = {(height, min(resolution**2 // height // step_px * step_px, 2 * resolution)) for height in sides}
    sizes = {size for height, width in sizes if width >= least for size in ((height, width), (width, height))}
    if not sizes:
        raise PIDiffError(f"A resolution of {resolution} px has no bucket in steps of {step_px} px. Use a larger one.")
    return sorted(sizes)


def nearest_bucket(photo_px: Size, sizes: list[Size]) -> Size:
    """The bucket whose aspect is nearest to the photo's; of equal ones the larger."""

    def distance(size: Size) -> tuple[float, int]:
        difference = math.log(size[1] / size[0]) - math.log(photo_px[1] / photo_px[0])
        return round(abs(difference), 6), -size[0] * size[1]

    return min(sizes, key=distance)


def widest_crop(photo_px: Size, size_px: Size, *, head_xyxy: tuple[float, float, float, float]) -> CropBox:
    """The largest crop of a bucket's shape, with the head (left, top, right, bottom in px) as central as can be."""
    return _crop(photo_px, size_px, zoom=1.0, head_xyxy=head_xyxy, place=(0.5, 0.5))


def closer_crop(
    photo_px: Size, size_px: Size, *, head_xyxy: tuple[float, float, float, float], rng: np.random.Generator
) -> CropBox:
    """A crop at a random zoom and place that still holds the whole head, if the widest one does."""
    left, top, right, bottom = head_xyxy
    cover = max(size_px[0] / photo_px[0], size_px[1] / photo_px[1])
    fits = min(size_px[0] / max(1.0, bottom - top), size_px[1] / max(1.0, right - left)) / cover
    zoom = math.exp(rng.uniform(0.0, math.log(max(1.0, min(_MAX_ZOOM, fits)))))
    return _crop(photo_px, size_px, zoom=zoom, head_xyxy=head_xyxy, place=tuple(rng.uniform(0, 1, 2)))


def plan_epoch(samples: Iterable[tuple[int, int, Size, int]], *, size: int, rng: np.random.Generator) -> np.ndarray:
    """The batches of an epoch, each of one bucket, in random order: (steps, size, 2), photo and crop of each row.

    A bucket gives round(crops / size) batches, at least one: what is left over changes from epoch to epoch, and a
    bucket with fewer crops than a batch repeats them.

    Args:
        samples: photo, crop, the crop's bucket, repeats.
        size: rows of a batch.
        rng: decides the order.
    """
    by_bucket: dict[Size, list[tuple[int, int]]] = {}
    for photo, crop, bucket, repeats in samples:
        by_bucket.setdefault(bucket, []).extend([(photo, crop)] * repeats)
    batches = []
    for _, rows in sorted(by_bucket.items()):
        count = max(1, round(len(rows) / size)) * size
        order = np.resize(rng.permutation(len(rows)), count)  # begins again if there are too few
        batches.append(np.array(rows)[order].reshape(-1, size, 2))
    return rng.permutation(np.concatenate(batches))


def _crop(
    photo_px: Size,
    size_px: Size,
    *,
    zoom: float,
    head_xyxy: tuple[float, float, float, float],
    place: tuple[float, ...],
) -> CropBox:
    """`place`: (down, across) in [0, 1] of the room that a crop with the whole head has; 0.5 centres the head."""
    scale = zoom * max(size_px[0] / photo_px[0], size_px[1] / photo_px[1])
    resized = max(size_px[0], round(photo_px[0] * scale)), max(size_px[1], round(photo_px[1] * scale))
    corners = []
    for axis, (first, last) in enumerate(((head_xyxy[1], head_xyxy[3]), (head_xyxy[0], head_xyxy[2]))):
        # The crop begins between "the head touches its end" and "the head touches its beginning".
        lowest, highest = last * scale - size_px[axis], first * scale
        start = round(lowest + place[axis] * (highest - lowest))
        corners.append(min(max(start, 0), resized[axis] - size_px[axis]))
    return CropBox(resized, size_px, *corners)
