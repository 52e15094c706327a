"""Backgrounds: a few large, simple shapes for each place, with a little variation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .canvas import Colour, mix, scaled

Random = np.random.Generator


@lru_cache(maxsize=8)
def _ramp(size_px: int) -> Image.Image:
    """A mask from 0 at the top to 255 at the bottom."""
    return Image.linear_gradient("L").resize((size_px, size_px))


class _Sheet:
    """Shapes in picture coordinates, 0..1 from the upper left corner."""

    def __init__(self, size_px: int, top: Colour, bottom: Colour) -> None:
        ramp = _ramp(size_px)
        self.image = Image.composite(Image.new("RGB", ramp.size, bottom), Image.new("RGB", ramp.size, top), ramp)
        self._size = size_px
        self._draw = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.rectangle(
            [left * self._size, top * self._size, right * self._size, bottom * self._size], fill=colour
        )

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, squash: float = 1.0) -> None:
        size = self._size
        self._draw.ellipse(
            [(x - radius) * size, (y - radius * squash) * size, (x + radius) * size, (y + radius * squash) * size],
            fill=colour,
        )

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([value * self._size for point in points for value in point], fill=colour)


def _forest(size_px: int, rng: Random) -> Image.Image:
    sheet = _Sheet(size_px, (168, 214, 196), (206, 232, 190))
    sheet.box(0, 0.68, 1, 1, (92, 148, 70))
    for row, (green, base) in enumerate((((104, 160, 110), 0.70), ((58, 122, 66), 0.78))):
        for slot in range(5):
            x = (slot + 0.5 * row + rng.uniform(-0.2, 0.2)) / 4.5
            height, half = rng.uniform(0.5, 0.68), rng.uniform(0.11, 0.15)
            sheet.box(x - 0.025, base - 0.12, x + 0.025, base, (104, 72, 46))
            shade = scaled(green, rng.uniform(0.88, 1.12))
            for tier in range(3):
                low = base - 0.1 - tier * height * 0.26
                wide = half * (1 - 0.24 * tier)
                sheet.shape(
                    [(x - wide, low), (x + wide, low), (x, low - height * 0.42)], scaled(shade, 1 + 0.09 * tier)
                )
    return sheet.image


def _beach(size_px: int, rng: Random) -> Image.Image:
    sheet = _Sheet(size_px, (92, 182, 238), (196, 232, 246))
    side = rng.choice([-1, 1])
    sheet.disc(0.5 + side * rng.uniform(0.3, 0.4), rng.uniform(0.1, 0.2), 0.09, (255, 236, 120))
    sea = rng.uniform(0.48, 0.55)
    sheet.box(0, sea, 1, 0.75, (30, 132, 186))
    sheet.box(0, sea + 0.1, 1, 0.75, (44, 164, 200))
    sheet.disc(0.5, 0.98, 0.9, (250, 250, 244), squash=0.36)
    sheet.disc(0.5, 1.0, 0.9, (242, 212, 148), squash=0.36)
    x = 0.5 - side * rng.uniform(0.38, 0.44)
    sheet.shape([(x - 0.03, 0.8), (x + 0.03, 0.8), (x + 0.015, 0.28), (x - 0.015, 0.28)], (134, 92, 56))
    for dx, dy in ((-0.2, 0.05), (0.2, 0.05), (-0.15, -0.12), (0.15, -0.12), (0.0, -0.16)):
        sheet.shape(
            [(x, 0.31), (x + dx * 0.5 - 0.02, 0.25 + dy), (x + dx, 0.33 + dy), (x + dx * 0.4, 0.31 + dy * 0.5)],
            (52, 142, 70),
        )
    return sheet.image


def _city(size_px: int, rng: Random) -> Image.Image:
    sheet = _Sheet(size_px, (158, 190, 216), (226, 220, 206))
    x = -0.05
    while x < 1:
        width = rng.uniform(0.16, 0.24)
        top = rng.uniform(0.1, 0.42)
        wall = mix((112, 118, 134), (164, 130, 116), rng.random())
        wall = scaled(wall, rng.uniform(0.8, 1.15))
        sheet.box(x, top, x + width - 0.012, 1, wall)
        lit = (250, 226, 150) if rng.random() < 0.6 else (206, 226, 240)
        columns = 3 if width > 0.2 else 2
        for column in range(columns):
            left = x + width * (0.14 + 0.8 * column / columns)
            for row in range(7):
                sheet.box(left, top + 0.05 + 0.11 * row, left + 0.042, top + 0.11 + 0.11 * row, lit)
        x += width
    sheet.box(0, 0.9, 1, 1, (92, 94, 100))
    return sheet.image


def _room(size_px: int, rng: Random) -> Image.Image:
    wall = ((228, 204, 172), (216, 186, 186), (196, 208, 190), (214, 204, 222))[rng.integers(4)]
    sheet = _Sheet(size_px, wall, scaled(wall, 0.93))
    sheet.box(0, 0.84, 1, 1, (150, 104, 70))
    sheet.box(0, 0.82, 1, 0.845, (246, 240, 230))
    side = int(rng.integers(2))
    left = (0.05, 0.68)[side] + rng.uniform(-0.03, 0.03)
    top = rng.uniform(0.08, 0.16)
    sheet.box(left, top, left + 0.27, top + 0.42, (250, 248, 240))
    sheet.box(left + 0.025, top + 0.025, left + 0.245, top + 0.395, (146, 204, 240))
    sheet.box(left + 0.125, top, left + 0.145, top + 0.42, (250, 248, 240))
    sheet.box(left, top + 0.2, left + 0.27, top + 0.22, (250, 248, 240))
    x = (0.84, 0.16)[side] + rng.uniform(-0.03, 0.03)
    sheet.box(x - 0.012, 0.4, x + 0.012, 0.84, (96, 70, 60))
    sheet.shape([(x - 0.07, 0.24), (x + 0.07, 0.24), (x + 0.13, 0.42), (x - 0.13, 0.42)], (255, 206, 110))
    return sheet.image


def _desert(size_px: int, rng: Random) -> Image.Image:
    sheet = _Sheet(size_px, (250, 176, 108), (255, 226, 170))
    side = int(rng.choice([-1, 1]))
    sheet.disc(0.5 + side * rng.uniform(0.28, 0.4), rng.uniform(0.14, 0.26), 0.11, (255, 246, 208))
    sheet.disc(rng.uniform(0.1, 0.3), 0.86, 0.55, (216, 128, 72), squash=0.5)
    sheet.disc(rng.uniform(0.7, 0.95), 0.92, 0.6, (200, 110, 62), squash=0.5)
    sheet.disc(0.5, 1.12, 1.0, (230, 152, 88), squash=0.36)
    x = 0.5 - side * rng.uniform(0.36, 0.42)
    green = (64, 132, 84)
    sheet.box(x - 0.035, 0.36, x + 0.035, 0.85, green)
    sheet.disc(x, 0.36, 0.035, green)
    for arm, height in ((-1, 0.5), (1, 0.56)):
        far = x + arm * 0.095
        sheet.box(min(x, far), height + 0.06, max(x, far), height + 0.11, green)
        sheet.box(far - 0.025, height - 0.05, far + 0.025, height + 0.11, green)
        sheet.disc(far, height - 0.05, 0.025, green)
    return sheet.image


def _space(size_px: int, rng: Random) -> Image.Image:
    sheet = _Sheet(size_px, (20, 16, 58), (66, 34, 104))
    for x, y, radius in rng.random((34, 3)).tolist():
        sheet.disc(x, y, 0.005 + 0.008 * radius, (255, 250, 220))
    side = int(rng.choice([-1, 1]))
    x, y = 0.5 + side * rng.uniform(0.3, 0.38), rng.uniform(0.14, 0.26)
    planet = ((240, 150, 80), (96, 190, 200), (232, 110, 140))[rng.integers(3)]
    sheet.disc(x, y, 0.21, scaled(planet, 0.7), squash=0.26)
    sheet.disc(x, y, 0.165, (40, 24, 80), squash=0.2)
    sheet.disc(x, y, 0.12, planet)
    sheet.shape(
        [(x - 0.21, y), (x - 0.16, y), (x, y + 0.03), (x + 0.16, y), (x + 0.21, y), (x, y + 0.06)], scaled(planet, 0.7)
    )
    sheet.disc(0.5 - side * rng.uniform(0.32, 0.4), rng.uniform(0.3, 0.6), 0.055, (214, 214, 224))
    return sheet.image


_PLACES: dict[str, Callable[[int, Random], Image.Image]] = {
    "forest": _forest, "beach": _beach, "city": _city, "room": _room, "desert": _desert, "space": _space,
}  # fmt: skip


def draw_place(place: str, *, size_px: int, rng: Random) -> Image.Image:
    """An RGB picture of the place, slightly blurred, so that the person is easy to see."""
    return _PLACES[place](size_px, rng).filter(ImageFilter.BoxBlur(size_px / 160))
