"""The drawn head: skin, ears, nose, mouth, beard and marks, eyes, brows and glasses; hair has its own file.

Eyes, brows and glasses are the boldest shapes of the face, because they must survive an 8x autoencoder.
"""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Colour, Pose, mirrored, mix, oval, scaled, smooth
from .drawn_person import DrawnPerson
from .hair import Hair, draw_hair_behind, draw_hair_front, hair_colour
from .scene import Scene

_SKIN_TONES: tuple[Colour, ...] = ((255, 228, 206), (246, 204, 168), (222, 166, 122), (170, 114, 78), (112, 72, 52))
_ROSY: Colour = (236, 110, 110)
_GOLDEN: Colour = (226, 184, 70)
_LIP_RED: Colour = (190, 44, 62)

CLOTHES_COLOURS: dict[str, Colour] = {
    "red": (216, 48, 48), "yellow": (246, 206, 48), "green": (48, 156, 80), "blue": (50, 96, 204),
    "purple": (140, 70, 180), "white": (240, 240, 240), "black": (50, 50, 58),
}  # fmt: skip

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

_EYE_Y = -0.05
_MOUTH_Y = 0.63


def skin_colour(tone: float, undertone: float) -> Colour:
    """Light (0) to dark (1) skin, rosy (0) to golden (1)."""
    place = tone * (len(_SKIN_TONES) - 1)
    index = min(int(place), len(_SKIN_TONES) - 2)
    base = mix(_SKIN_TONES[index], _SKIN_TONES[index + 1], place - index)
    target = _ROSY if undertone < 0.5 else _GOLDEN
    # The cast keeps the tone's lightness, so that the two traits stay apart.
    level = sum(base) / sum(target)
    return mix(base, scaled(target, level), 0.55 * abs(undertone - 0.5))


class Head:
    """One person's head, posed; call `draw` once. `landmarks` are pixels (5, 2) of the canvas."""

    def __init__(self, identity: DrawnPerson, scene: Scene, pose: Pose) -> None:
        self.identity = identity
        self.scene = scene
        self.pose = pose
        number = identity.number
        self.width = 0.63 + 0.30 * number("face_width")
        self.skin = skin_colour(number("skin_tone"), number("skin_undertone"))
        self.ink = scaled(self.skin, 0.34)
        self.shade = mix(scaled(self.skin, 0.84), (150, 60, 60), 0.08)
        self.hair = Hair(
            identity.category("hair_style"),
            self.width,
            hair_colour(identity.category("hair_colour"), number("hair_shade")),
            self.skin,
        )
        self.brow_colour = scaled(self.hair.colour, 0.62)
        self.eye_x = 0.29 + 0.10 * number("eye_spacing")
        self.eye_y = _EYE_Y
        self.mouth_half = 0.17 + 0.19 * number("mouth_width")
        self.nose_y = 0.22 + 0.18 * number("nose_length")
        self.mouth_lift = 0.09 if scene.expression == "smile" else 0.0
        if scene.expression == "surprised":
            self.mouth_half *= 0.72

    def place(self, points: np.ndarray, *, lift: float = 0.0) -> np.ndarray:
        """Points (n, 2) on the curved front of the face to pixels; `lift` moves them away from the skin."""
        x, y = points[:, 0] / self.width, points[:, 1]
        z = 0.68 * np.sqrt(np.maximum(0.0, 1 - 0.8 * x**2 - 0.5 * y**2))
        return self.pose(points, z + lift)

    @property
    def landmarks(self) -> np.ndarray:
        """Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture."""
        eyes = self.place(np.array([(-self.eye_x, self.eye_y), (self.eye_x, self.eye_y)]))
        nose = self.place(np.array([(0.0, self.nose_y)]), lift=0.12)
        corner_y = _MOUTH_Y - self.mouth_lift
        mouth = self.place(np.array([(-self.mouth_half, corner_y), (self.mouth_half, corner_y)]))
        return np.concatenate([eyes, nose, mouth])

    def draw(self, canvas: Canvas) -> None:
        """Paint from back to front."""
        draw_hair_behind(canvas, self.pose, self.hair)
        self._draw_body(canvas)
        self._draw_ears(canvas)
        self._draw_face(canvas)
        self._draw_marks(canvas)
        self._draw_beard(canvas)
        self._draw_mouth(canvas)
        draw_hair_front(canvas, self.pose, self.hair)
        self._draw_nose(canvas)
        draw_eyes(canvas, self)
        draw_glasses(canvas, self)
        draw_brows(canvas, self)

    def _draw_body(self, canvas: Canvas) -> None:
        colour = CLOTHES_COLOURS[self.scene.clothes]
        dark = scaled(self.skin, 0.8)
        unit = self.pose.unit
        # The body does not turn with the head: only the picture's axes count.
        origin = self.pose(np.zeros((1, 2)))[0]
        neck_half = 0.40
        neck = np.array([(-neck_half, 0.5), (neck_half, 0.5), (neck_half + 0.03, 1.6), (-neck_half - 0.03, 1.6)])
        canvas.outlined(origin + neck * unit, dark, self.ink, head=False)
        far = 4.0
        half = np.array(
            [(0, 1.36), (0.30, 1.28), (0.46, 1.10), (0.80, 1.20), (1.30, 1.36), (1.62, 1.75), (1.75, far), (0, far)]
        )
        canvas.outlined(origin + smooth(mirrored(half)) * unit, colour, scaled(colour, 0.45), head=False)
        collar = np.array([(-0.46, 1.11), (-0.30, 1.31), (0, 1.40), (0.30, 1.31), (0.46, 1.11)])
        canvas.stroke(origin + smooth(collar, closed=False) * unit, scaled(colour, 0.72), unit * 0.09)

    def _draw_ears(self, canvas: Canvas) -> None:
        size = self.identity.number("ear_size")
        radius_x, radius_y = 0.11 + 0.11 * size, 0.15 + 0.15 * size
        for side in (-1, 1):
            x = side * (self.width + 0.4 * radius_x)
            canvas.outlined(self.pose(oval(x, 0.08, radius_x, radius_y), -0.05), self.skin, self.ink, head=True)
            canvas.fill(self.pose(oval(x, 0.1, radius_x * 0.5, radius_y * 0.55, count=12), -0.05), self.shade)

    def _outline(self) -> np.ndarray:
        w, jaw = self.width, self.identity.number("jaw")
        return mirrored(np.array([
            (0, -1.0), (0.55 * w, -0.90), (0.90 * w, -0.52), (w, -0.05),
            (w * (0.84 + 0.14 * jaw), 0.42), (w * (0.44 + 0.45 * jaw), 0.78),
            (w * (0.12 + 0.46 * jaw), 0.965), (0, 1.0),
        ]))  # fmt: skip

    def _draw_face(self, canvas: Canvas) -> None:
        outline = smooth(self.pose(self._outline()))
        canvas.outlined(outline, self.shade, self.ink, head=True)
        # The lit side: the same outline, smaller and moved towards the light. A crescent of shade remains.
        centre = outline.mean(0)
        shift = np.array([0.035 * self.scene.light + 0.02 * np.sign(self.scene.light), -0.03]) * self.pose.unit
        for step, amount in ((0.965, 0.5), (0.93, 1.0)):
            lit = centre + (outline - centre) * step + shift * (1.0 if step < 0.95 else 0.5)
            canvas.fill(lit, mix(self.shade, self.skin, amount))

    def _draw_nose(self, canvas: Canvas) -> None:
        half = 0.07 + 0.14 * self.identity.number("nose_width")
        tip = self.nose_y
        deep = mix(self.shade, self.ink, 0.22)
        ridge = np.array(
            [
                (0.0, -0.04),
                (0.30 * half + 0.02, 0.5 * tip),
                (half, tip - 0.02),
                (half * 0.8, tip + 0.055),
                (0, tip + 0.075),
            ]
        )
        canvas.fill(smooth(self.place(mirrored(ridge), lift=0.06)), mix(self.shade, deep, 0.25))
        curve = np.array(
            [
                (-half, tip - 0.05),
                (-half, tip + 0.03),
                (-0.5 * half, tip + 0.075),
                (0, tip + 0.065),
                (0.5 * half, tip + 0.075),
                (half, tip + 0.03),
                (half, tip - 0.05),
            ]
        )
        canvas.stroke(
            smooth(self.place(curve, lift=0.08), closed=False), mix(deep, self.ink, 0.85), canvas.ink_px * 1.4
        )
        canvas.fill(
            self.place(oval(0, tip - 0.02, 0.45 * half, 0.04, count=10), lift=0.12),
            mix(self.skin, (255, 255, 255), 0.3),
        )

    def _draw_mouth(self, canvas: Canvas) -> None:
        half, fullness = self.mouth_half, self.identity.number("lip_fullness")
        y, lift = _MOUTH_Y, self.mouth_lift
        lip = mix(mix(self.skin, _LIP_RED, 0.5 + 0.18 * fullness), (0, 0, 0), 0.05)
        ink = mix(scaled(lip, 0.4), (60, 10, 20), 0.3)
        upper, lower = 0.025 + 0.065 * fullness, 0.035 + 0.10 * fullness
        if self.scene.expression == "surprised":
            drop = 0.16
            canvas.outlined(self.place(oval(0, y + 0.02, half + lower * 0.6, drop + upper * 0.7), lift=0.02), lip, ink)
            canvas.fill(self.place(oval(0, y + 0.02, half - 0.03, drop - 0.03), lift=0.02), (74, 16, 26))
            canvas.fill(self.place(oval(0, y + 0.09, half * 0.6, 0.05, count=12), lift=0.02), (214, 92, 100))
            return
        middle = y + lift * 0.35
        top = np.array(
            [
                (-half, y - lift),
                (-0.5 * half, middle - upper),
                (0, middle - upper * 0.7 + 0.01),
                (0.5 * half, middle - upper),
                (half, y - lift),
            ]
        )
        bottom = np.array(
            [
                (0.55 * half, middle + lower * 0.8 + lift * 0.6),
                (0, middle + lower + lift),
                (-0.55 * half, middle + lower * 0.8 + lift * 0.6),
            ]
        )
        canvas.outlined(smooth(self.place(np.concatenate([top, bottom]), lift=0.02)), lip, ink, width=0.7)
        if lift:
            teeth = np.array(
                [
                    (-0.86 * half, y - 0.75 * lift),
                    (0, middle - 0.01),
                    (0.86 * half, y - 0.75 * lift),
                    (0.5 * half, middle + lift * 0.75),
                    (0, middle + lift),
                    (-0.5 * half, middle + lift * 0.75),
                ]
            )
            canvas.outlined(smooth(self.place(teeth, lift=0.02)), (252, 250, 244), ink, width=0.6)
        else:
            seam = np.array([(-half, y), (-0.5 * half, y), (0, y + 0.015), (0.5 * half, y), (half, y)])
            canvas.stroke(smooth(self.place(seam, lift=0.02), closed=False), ink, canvas.ink_px * 1.1)

    def _draw_beard(self, canvas: Canvas) -> None:
        beard = self.identity.category("beard")
        colour = scaled(self.hair.colour, 0.86)
        ink = self.hair.ink
        w, jaw = self.width, self.identity.number("jaw")
        if beard == "full":
            side = [
                (w * 1.0, 0.02), (w * (0.92 + 0.11 * jaw), 0.46), (w * (0.54 + 0.44 * jaw), 0.86),
                (w * (0.20 + 0.42 * jaw), 1.07), (0, 1.12),
            ]  # fmt: skip
            inner = [(w * 0.86, 0.10), (w * 0.70, 0.42), (w * 0.40, 0.47), (0.10, 0.47), (0, 0.50)]
            right = np.array(side[:-1])
            edge = np.array(inner)
            mirror = np.array([-1.0, 1.0])
            outside = np.concatenate([right, np.array(side[-1:]), right[::-1] * mirror])
            inside = np.concatenate([edge[:-1] * mirror, edge[-1:], edge[:-1][::-1]])
            canvas.outlined(smooth(np.concatenate([self.pose(outside), self.place(inside)])), colour, ink, head=True)
        elif beard == "goatee":
            half = np.array([(0, 0.80), (0.14, 0.82), (0.27, 0.74), (0.29, 0.92), (0.17, 1.12), (0, 1.17)])
            canvas.outlined(smooth(self.pose(mirrored(half), 0.3)), colour, ink, head=True)
        elif beard == "moustache":
            half = np.array(
                [(0, 0.475), (0.14, 0.45), (0.32, 0.52), (0.44, 0.66), (0.30, 0.625), (0.12, 0.575), (0, 0.56)]
            )
            canvas.outlined(smooth(self.place(mirrored(half), lift=0.06)), colour, ink, head=True)

    def _draw_marks(self, canvas: Canvas) -> None:
        marks = self.identity.category("marks")
        dark = mix(self.skin, (96, 40, 16), 0.62) if sum(self.skin) > 330 else scaled(self.skin, 0.5)
        if marks == "freckles":
            for x, y in (
                (0.24, 0.22),
                (0.37, 0.18),
                (0.50, 0.23),
                (0.30, 0.33),
                (0.43, 0.32),
                (0.55, 0.34),
                (0.36, 0.43),
            ):
                for side in (-1, 1):
                    canvas.fill(self.place(oval(side * x, y, 0.03, 0.03, count=8)), dark)
        elif marks == "mole":
            canvas.fill(self.place(oval(0.40, 0.45, 0.06, 0.06, count=12)), (52, 26, 20))
        elif marks == "blush":
            pink = mix(self.skin, (240, 70, 96), 0.42)
            for side in (-1, 1):
                canvas.fill(
                    self.place(oval(side * 0.44 * self.width / 0.8, 0.32, 0.19, 0.14)), mix(self.skin, pink, 0.5)
                )
                canvas.fill(self.place(oval(side * 0.44 * self.width / 0.8, 0.32, 0.14, 0.10)), pink)
        elif marks == "scar":
            line = np.array([(-0.62, 0.16), (-0.48, 0.30), (-0.36, 0.48)])
            red = mix(self.skin, (150, 30, 40), 0.6)
            canvas.stroke(self.place(line), red, self.pose.unit * 0.075)
            for x, y in ((-0.55, 0.23), (-0.42, 0.39)):
                canvas.stroke(
                    self.place(np.array([(x - 0.07, y + 0.06), (x + 0.07, y - 0.06)])), red, self.pose.unit * 0.05
                )


def draw_eyes(canvas: Canvas, head: Head) -> None:
    """Both eyes. Behind sunglasses they are darker, but visible."""
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
