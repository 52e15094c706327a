"""Eyes, brows and glasses: the boldest shapes of the face, because they must survive an 8x autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas, Colour, mix, oval, scaled, smooth

if TYPE_CHECKING:
    from .head import Head

EYE_COLOURS: dict[str, Colour] = {
    "brown": (104, 58, 30),
    "blue": (40, 120, 220),
    "green": (40, 150, 70),
    "grey": (128, 140, 152),
    "amber": (226, 146, 30),
}
GLASSES_COLOURS: dict[str, Colour] = {
    "black": (26, 24, 30),
    "red": (206, 30, 46),
    "white": (248, 246, 240),
    "blue": (30, 76, 196),
}

_INK: Colour = (34, 24, 28)
_TINT: Colour = (36, 38, 52)
_TINT_AMOUNT = 0.72


def draw_eyes(canvas: Canvas, head: Head) -> None:
    """Both eyes; behind sunglasses they are dim, not gone."""
    tinted = head.identity.category("glasses") == "sunglasses"

    def seen(colour: Colour) -> Colour:
        return mix(colour, _TINT, _TINT_AMOUNT) if tinted else colour

    if tinted:
        for side in (-1, 1):
            canvas.fill(head.place(_lens(head, side), lift=0.04), seen(head.skin))
    iris_colour = EYE_COLOURS[head.identity.category("eye_colour")]
    radius_x = 0.115 + 0.085 * head.identity.number("eye_size")
    radius_y = radius_x * (1.08 if head.scene.expression == "surprised" else 0.84)
    iris = 0.70 * radius_x
    gaze = 0.02 * head.scene.yaw
    for side in (-1, 1):
        x, y = side * head.eye_x, head.eye_y
        canvas.outlined(head.place(oval(x, y, radius_x, radius_y)), seen((255, 255, 255)), seen(_INK), width=0.8)
        canvas.fill(head.place(oval(x + gaze, y, iris, iris, count=16)), seen(scaled(iris_colour, 0.6)))
        canvas.fill(head.place(oval(x + gaze, y, iris * 0.82, iris * 0.82, count=16)), seen(iris_colour))
        canvas.fill(head.place(oval(x + gaze, y, iris * 0.46, iris * 0.46, count=12)), seen((16, 12, 14)))
        canvas.fill(
            head.place(oval(x + gaze - iris * 0.34, y - iris * 0.36, iris * 0.27, iris * 0.27, count=8)),
            seen((255, 255, 255)),
        )
        lid = np.array(
            [
                (x - radius_x - 0.02, y - 0.1 * radius_y),
                (x - 0.6 * radius_x, y - 0.86 * radius_y),
                (x, y - 1.06 * radius_y),
                (x + 0.6 * radius_x, y - 0.86 * radius_y),
                (x + radius_x + 0.02, y - 0.1 * radius_y),
            ]
        )
        canvas.stroke(smooth(head.place(lid), closed=False), seen(_INK), canvas.ink_px * 1.8)


def draw_brows(canvas: Canvas, head: Head) -> None:
    """Both brows, over hair and glasses."""
    thickness = 0.045 + 0.135 * head.identity.number("brow_thickness")
    tilt = 0.26 * (head.identity.number("brow_tilt") - 0.5)
    raised = 0.09 if head.scene.expression == "surprised" else 0.0
    y = head.eye_y - 0.36 - raised - 0.25 * thickness
    for side in (-1, 1):
        inner, outer = side * (head.eye_x - 0.17), side * (head.eye_x + 0.20)
        middle = (inner + outer) / 2
        top = [
            (inner, y + tilt - 0.5 * thickness),
            (middle, y - 0.04 - 0.5 * thickness),
            (outer, y - tilt - 0.15 * thickness),
        ]
        bottom = [
            (outer, y - tilt + 0.25 * thickness),
            (middle, y - 0.04 + 0.5 * thickness),
            (inner, y + tilt + 0.5 * thickness),
        ]
        points = head.place(np.array(top + bottom), lift=0.03)
        canvas.outlined(smooth(points), head.brow_colour, scaled(head.brow_colour, 0.5), width=0.35)


def _lens(head: Head, side: int) -> np.ndarray:
    x, y = side * head.eye_x, head.eye_y + 0.01
    radius = 0.27
    style = head.identity.category("glasses")
    if style == "round":
        return oval(x, y, radius, radius)
    angle = np.arange(24) * (2 * np.pi / 24)
    power = 0.32 if style == "square" else 0.5
    across, down = (np.sign(f) * np.abs(f) ** power for f in (np.cos(angle), np.sin(angle)))
    points = np.stack([x + radius * across, y + radius * 0.82 * down], axis=1)
    if style == "sunglasses":
        # Narrower towards the cheek and the nose, like an aviator's.
        lower = np.clip((points[:, 1] - y) / radius, 0, 1)
        points[:, 0] += (x - points[:, 0]) * 0.35 * lower
    return points


def draw_glasses(canvas: Canvas, head: Head) -> None:
    """Frame, bridge and temples; the tinted glass of sunglasses is drawn with the eyes."""
    style = head.identity.category("glasses")
    if style == "none":
        return
    colour = GLASSES_COLOURS[head.identity.category("glasses_colour")]
    width = head.pose.unit * (0.085 if style != "sunglasses" else 0.07)
    edge = (40, 36, 44) if sum(colour) > 400 else scaled(colour, 0.5)
    lines = []
    for side in (-1, 1):
        lens = _lens(head, side)
        lines.append(head.place(np.concatenate([lens, lens[:2]]), lift=0.05))
        temple = head.pose(np.array([(side * head.width, head.eye_y - 0.02)]), 0.0)
        hinge = head.place(np.array([(side * (head.eye_x + 0.26), head.eye_y - 0.06)]), lift=0.05)
        lines.append(np.concatenate([hinge, temple]))
    gap = max(head.eye_x - 0.27, 0.02)
    bridge = np.array([(-gap, head.eye_y - 0.03), (0, head.eye_y - 0.07), (gap, head.eye_y - 0.03)])
    lines.append(head.place(bridge, lift=0.06))
    for line in lines:
        canvas.stroke(line, edge, width + canvas.ink_px * 0.9, head=True)
    for line in lines:
        canvas.stroke(line, colour, width)
    if style == "sunglasses":
        for side in (-1, 1):
            x = side * head.eye_x
            glint = np.array([(x - 0.14, head.eye_y - 0.02), (x - 0.05, head.eye_y - 0.13)])
            canvas.stroke(head.place(glint, lift=0.05), (150, 156, 172), head.pose.unit * 0.035)
