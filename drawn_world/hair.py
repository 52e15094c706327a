"""Hair, in two layers: behind the face and over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Colour, Pose, mirrored, mix, oval, scaled, smooth

HAIR_COLOURS: dict[str, Colour] = {
    "black": (48, 44, 54), "brown": (122, 72, 40), "blond": (246, 206, 96), "red": (214, 76, 34),
    "grey": (188, 190, 198), "blue": (52, 104, 220), "pink": (244, 116, 176), "green": (58, 166, 92),
}  # fmt: skip

# Depth of the hairline over the forehead; the outline of the head is at depth 0.
_HAIRLINE_Z = 0.45


@dataclass(frozen=True)
class Hair:
    """The hair of one person: style name, half width of the skull, colour and skin."""

    style: str
    width: float
    colour: Colour
    skin: Colour

    @property
    def ink(self) -> Colour:
        """Outline colour."""
        return scaled(self.colour, 0.38)

    @property
    def shine(self) -> Colour:
        """Highlight colour."""
        return mix(self.colour, (255, 255, 255), 0.28)


def hair_colour(name: str, shade: float) -> Colour:
    """A named colour; shade 0 is its deep variant, 1 its bright one."""
    base = HAIR_COLOURS[name]
    return mix(scaled(base, 0.76), mix(base, (255, 255, 255), 0.22), shade)


def _bumpy(x: float, y: float, radius_x: float, radius_y: float, *, bumps: int, depth: float) -> np.ndarray:
    angle = np.arange(bumps * 6) * (2 * np.pi / (bumps * 6))
    radius = 1 - depth + depth * np.abs(np.sin(angle * bumps / 2))
    return np.stack([x + radius_x * radius * np.cos(angle), y + radius_y * radius * np.sin(angle)], axis=1)


def draw_hair_behind(canvas: Canvas, pose: Pose, hair: Hair) -> None:
    """The layer behind neck, ears and face."""
    w = hair.width
    if hair.style == "curly":
        points = _bumpy(0, -0.30, w + 0.28, 1.02, bumps=15, depth=0.09)
        canvas.outlined(pose(points, -0.15), hair.colour, hair.ink, head=True)
    elif hair.style == "bob":
        half = np.array(
            [
                (0, -1.2),
                (0.6 * w, -1.12),
                (w + 0.16, -0.6),
                (w + 0.20, 0.1),
                (w + 0.22, 0.62),
                (w + 0.05, 0.74),
                (0, 0.7),
            ]
        )
        canvas.outlined(smooth(pose(mirrored(half), -0.12)), hair.colour, hair.ink, head=True)
    elif hair.style == "long":
        half = np.array(
            [
                (0, -1.2),
                (0.6 * w, -1.1),
                (w + 0.15, -0.55),
                (w + 0.18, 0.2),
                (w + 0.19, 0.9),
                (w + 0.1, 1.2),
                (0.4, 1.16),
                (0, 1.1),
            ]
        )
        canvas.outlined(smooth(pose(mirrored(half), -0.12)), hair.colour, hair.ink, head=True)
    elif hair.style == "bun":
        canvas.outlined(pose(oval(0, -1.07, 0.34, 0.29), -0.1), hair.colour, hair.ink, head=True)
        canvas.stroke(
            smooth(pose(np.array([(-0.18, -1.1), (0, -1.23), (0.2, -1.12)]), -0.1), closed=False),
            hair.shine,
            pose.unit * 0.05,
        )


def draw_hair_front(canvas: Canvas, pose: Pose, hair: Hair) -> None:
    """The layer over the face. Brows and glasses are drawn later, so they stay visible."""
    w = hair.width
    style = hair.style
    if style == "bald":
        canvas.fill(pose(oval(-0.26 * w, -0.68, 0.2, 0.1), 0.4), mix(hair.skin, (255, 255, 255), 0.35))
        return
    if style == "mohawk":
        _draw_mohawk(canvas, pose, hair)
        return
    outer, inner = _CAPS[style](w)
    points = np.concatenate([pose(outer), pose(inner, _HAIRLINE_Z)])
    if style == "curly":
        points = _scalloped(points, len(outer), pose.unit)
    else:
        points = smooth(points)
    canvas.outlined(points, hair.colour, hair.ink, head=True)
    shine = np.array([(-0.62 * w, -0.72), (-0.3 * w, -0.9), (0.05 * w, -0.95)])
    if style != "curly":
        canvas.stroke(smooth(pose(shine, 0.3), closed=False), hair.shine, pose.unit * 0.07)


def _scalloped(points: np.ndarray, outer: int, unit: float) -> np.ndarray:
    """A smooth curve whose hairline (the points after `outer`) is wavy."""
    curve = smooth(points)
    wave = np.zeros(len(curve))
    start = 5 * outer
    wave[start:-5] = np.abs(np.sin(np.arange(len(curve) - start - 5) * 0.75)) * 0.1 * unit
    return curve + np.stack([np.zeros(len(curve)), wave], axis=1)


def _draw_mohawk(canvas: Canvas, pose: Pose, hair: Hair) -> None:
    w = hair.width
    stubble = mix(hair.skin, hair.colour, 0.38)
    outer, inner = _short(w)
    shaved = np.concatenate([pose(outer * (0.985, 0.92)), pose(inner, _HAIRLINE_Z)])
    canvas.fill(smooth(shaved), stubble, head=True)
    spikes = np.array([
        (-0.27, -0.62), (-0.40, -1.02), (-0.25, -0.98), (-0.27, -1.26), (-0.10, -1.12), (0.0, -1.38), (0.10, -1.12),
        (0.27, -1.26), (0.25, -0.98), (0.40, -1.02), (0.27, -0.62), (0.12, -0.52), (0.0, -0.62), (-0.12, -0.52),
    ])  # fmt: skip
    depth = np.where(spikes[:, 1] > -0.7, _HAIRLINE_Z, 0.1)
    canvas.outlined(pose(spikes, depth), hair.colour, hair.ink, head=True)
    canvas.stroke(pose(np.array([(-0.08, -0.72), (-0.1, -1.0)]), 0.3), hair.shine, pose.unit * 0.06)


# A cap is (outer, inner): the outline from the left temple over the skull to the right one, then the hairline back.


def _short(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.03, -0.08),
        (-w - 0.06, -0.5),
        (-0.72 * w, -1.0),
        (0, -1.16),
        (0.72 * w, -1.0),
        (w + 0.06, -0.5),
        (w + 0.03, -0.08),
    ]
    inner = [
        (0.86 * w, -0.3),
        (0.72 * w, -0.56),
        (0.3 * w, -0.64),
        (-0.3 * w, -0.64),
        (-0.72 * w, -0.56),
        (-0.86 * w, -0.3),
    ]
    return np.array(outer), np.array(inner)


def _parted(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.03, -0.05),
        (-w - 0.08, -0.55),
        (-0.62 * w, -1.04),
        (-0.3 * w, -1.1),
        (0.3 * w, -1.32),
        (w, -1.02),
        (w + 0.16, -0.45),
        (w + 0.02, -0.02),
    ]
    inner = [
        (0.9 * w, -0.22),
        (0.66 * w, -0.42),
        (0.05 * w, -0.56),
        (-0.42 * w, -0.86),
        (-0.7 * w, -0.55),
        (-0.88 * w, -0.28),
    ]
    return np.array(outer), np.array(inner)


def _curly(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.1, -0.1),
        (-w - 0.1, -0.5),
        (-0.7 * w, -0.98),
        (0, -1.1),
        (0.7 * w, -0.98),
        (w + 0.1, -0.5),
        (w + 0.1, -0.1),
    ]
    inner = [
        (0.88 * w, -0.3),
        (0.66 * w, -0.62),
        (0.2 * w, -0.7),
        (-0.2 * w, -0.7),
        (-0.66 * w, -0.62),
        (-0.88 * w, -0.3),
    ]
    return np.array(outer), np.array(inner)


def _bob(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.1, 0.16),
        (-w - 0.12, -0.5),
        (-0.68 * w, -1.06),
        (0, -1.2),
        (0.68 * w, -1.06),
        (w + 0.12, -0.5),
        (w + 0.1, 0.16),
    ]
    inner = [
        (0.9 * w, 0.1),
        (0.8 * w, -0.42),
        (0.4 * w, -0.47),
        (0, -0.48),
        (-0.4 * w, -0.47),
        (-0.8 * w, -0.42),
        (-0.9 * w, 0.1),
    ]
    return np.array(outer), np.array(inner)


def _long(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.08, 0.3),
        (-w - 0.12, -0.5),
        (-0.64 * w, -1.06),
        (0, -1.18),
        (0.64 * w, -1.06),
        (w + 0.12, -0.5),
        (w + 0.08, 0.3),
    ]
    inner = [
        (0.9 * w, 0.24),
        (0.82 * w, -0.2),
        (0.5 * w, -0.62),
        (0, -0.88),
        (-0.5 * w, -0.62),
        (-0.82 * w, -0.2),
        (-0.9 * w, 0.24),
    ]
    return np.array(outer), np.array(inner)


def _bun(w: float) -> tuple[np.ndarray, np.ndarray]:
    outer = [
        (-w - 0.02, -0.12),
        (-w - 0.04, -0.5),
        (-0.7 * w, -0.96),
        (0, -1.08),
        (0.7 * w, -0.96),
        (w + 0.04, -0.5),
        (w + 0.02, -0.12),
    ]
    inner = [
        (0.9 * w, -0.28),
        (0.78 * w, -0.52),
        (0.46 * w, -0.74),
        (0, -0.8),
        (-0.46 * w, -0.74),
        (-0.78 * w, -0.52),
        (-0.9 * w, -0.28),
    ]
    return np.array(outer), np.array(inner)


_CAPS = {"short": _short, "parted": _parted, "curly": _curly, "bob": _bob, "long": _long, "bun": _bun}
