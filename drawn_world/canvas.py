"""Drawing primitives: a posed head's coordinates, smooth curves, and a canvas that keeps an exact head mask."""

from __future__ import annotations

from functools import cache
from math import cos, radians, sin

import numpy as np
from PIL import Image, ImageDraw

from .scene import Scene

Colour = tuple[int, int, int]

YAW_DEGREES = 24.0
PITCH_DEGREES = 8.0
ROLL_DEGREES = 8.0

# How far any hair style, beard or ear reaches from the middle of the head, in half face heights, with roll allowed for.
REACH_UP = 1.45
REACH_DOWN = 1.30
REACH_SIDE = 1.34


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`first` at amount 0, `second` at 1; clipped to 0..255."""
    red, green, blue = first
    red = int(red + (second[0] - red) * amount + 0.5)
    green = int(green + (second[1] - green) * amount + 0.5)
    blue = int(blue + (second[2] - blue) * amount + 0.5)
    return min(255, max(0, red)), min(255, max(0, green)), min(255, max(0, blue))


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour times `factor`, clipped to 0..255."""
    return mix((0, 0, 0), colour, factor)


@cache
def _spline_basis(count: int, closed: bool) -> np.ndarray:
    """Catmull-Rom basis (samples, count): a smooth curve through `count` points is basis @ points."""
    steps = 5
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    )
    segments = count if closed else count - 1
    basis = np.zeros((segments * steps + (not closed), count))
    for segment in range(segments):
        for tap in range(4):
            index = segment + tap - 1
            index = index % count if closed else min(max(index, 0), count - 1)
            basis[segment * steps : (segment + 1) * steps, index] += weights[:, tap]
    if not closed:
        basis[-1, -1] = 1
    return basis


def smooth(points: np.ndarray, *, closed: bool = True) -> np.ndarray:
    """A smooth curve through points (n, 2)."""
    return _spline_basis(len(points), closed) @ points


def mirrored(half: np.ndarray) -> np.ndarray:
    """Close a right half (n, k), given from top to bottom with both ends on the axis x = 0, by its mirror image."""
    left = half[-2:0:-1].copy()
    left[:, 0] *= -1
    return np.concatenate([half, left])


@cache
def _circle(count: int) -> np.ndarray:
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def oval(x: float, y: float, radius_x: float, radius_y: float, *, count: int = 20) -> np.ndarray:
    """An ellipse as (count, 2) points."""
    return _circle(count) * (radius_x, radius_y) + (x, y)


def _widened(points: np.ndarray, distance: float) -> np.ndarray:
    """A closed curve (n, 2) moved outwards by `distance` pixels along its normals."""
    ahead = np.concatenate([points[1:], points[:1]])
    behind = np.concatenate([points[-1:], points[:-1]])
    tangent = ahead - behind
    tangent /= np.sqrt((tangent**2).sum(1, keepdims=True)) + 1e-6
    area = (points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1]).sum()
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return points + normal * (distance if area > 0 else -distance)


class Pose:
    """Head coordinates to pixels.

    Head coordinates: x to the picture's right, y down, z towards the viewer; skull at y = -1, chin at y = 1, the middle
    at the origin.
    The projection is orthographic, so curves may be smoothed after it.
    """

    def __init__(self, scene: Scene, *, size_px: int) -> None:
        half = scene.face_size / 2
        low_y, high_y = REACH_UP * half, 1 - REACH_DOWN * half
        room_x = 0.5 - REACH_SIDE * half
        self.unit = half * size_px
        self.x = (0.5 + room_x * scene.offset_x) * size_px
        self.y = ((low_y + high_y) / 2 + (high_y - low_y) / 2 * scene.offset_y) * size_px
        yaw, pitch, roll = (
            radians(degrees * part)
            for degrees, part in ((YAW_DEGREES, scene.yaw), (PITCH_DEGREES, scene.pitch), (ROLL_DEGREES, scene.roll))
        )
        turn = np.array([[cos(yaw), 0.0], [0.0, cos(pitch)], [sin(yaw), sin(pitch)]])
        spin = np.array([[cos(roll), sin(roll)], [-sin(roll), cos(roll)]])
        self._matrix = turn @ spin * self.unit
        self._origin = np.array([self.x, self.y])

    def __call__(self, points: np.ndarray, z: float | np.ndarray = 0.0) -> np.ndarray:
        """Points (n, 2) at depth z (a number or (n,)) to pixels (n, 2)."""
        depth = z[:, None] if isinstance(z, np.ndarray) else z
        return points @ self._matrix[:2] + (depth * self._matrix[2] + self._origin)


class Canvas:
    """An RGB picture and the mask of the head in it, drawn together at twice the final size.

    In every method `head` is what the shape does to the mask: True adds it, False takes it away, None leaves the mask
    as it is (shapes inside the head).
    """

    def __init__(self, background: Image.Image, *, ink_px: float) -> None:
        self.image = background
        self.mask = Image.new("L", background.size)
        self.ink_px = ink_px
        self._draw = ImageDraw.Draw(self.image)
        self._mask_draw = ImageDraw.Draw(self.mask)

    def fill(self, points: np.ndarray, colour: Colour, *, head: bool | None = None) -> None:
        """A filled polygon of pixels (n, 2)."""
        flat = points.ravel().tolist()
        self._draw.polygon(flat, fill=colour)
        if head is not None:
            self._mask_draw.polygon(flat, fill=255 if head else 0)

    def outlined(
        self, points: np.ndarray, colour: Colour, ink: Colour, *, head: bool | None = None, width: float = 1.0
    ) -> None:
        """A filled polygon with an outline of `width` times the usual ink."""
        self.fill(_widened(points, self.ink_px * width), ink, head=head)
        self.fill(points, colour)

    def stroke(self, points: np.ndarray, colour: Colour, width_px: float, *, head: bool | None = None) -> None:
        """An open line with round ends through pixels (n, 2)."""
        flat = points.ravel().tolist()
        width = max(1, round(width_px))
        radius = width_px / 2
        ends = [(x - radius, y - radius, x + radius, y + radius) for x, y in (flat[:2], flat[-2:])]
        drawings = [(self._draw, colour)] + ([(self._mask_draw, 255 if head else 0)] if head is not None else [])
        for draw, value in drawings:
            draw.line(flat, fill=value, width=width)
            for end in ends:
                draw.ellipse(end, fill=value)
