"""Pictures of the drawn world: a person (`DrawnPerson`) in a scene (`Scene`), with exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .canvas import Canvas, Pose
from .drawn_person import DrawnPerson
from .head import Head
from .mediums import apply_light, apply_medium
from .places import draw_place
from .randomise import domain_randomise
from .scene import Scene

__all__ = ["Rendering", "Scene", "domain_randomise", "render"]

_SUPERSAMPLING = 2
_INK_WIDTH = 0.045


@dataclass(frozen=True, eq=False)
class Rendering:
    """One picture and its labels.

    image: (H, W, 3) uint8.
    face_mask: (H, W) uint8, 255 on the visible head (face, ears, hair, beard, glasses; not neck or clothes), else 0.
    landmarks: (5, 2) float32, x and y in pixels of the picture (pixel centres at .5): left eye, right eye, nose, left
    and right corner of the mouth, as seen in the picture.
    """

    image: np.ndarray
    face_mask: np.ndarray
    landmarks: np.ndarray


def render(identity: DrawnPerson, scene: Scene, *, size: int = 128) -> Rendering:
    """Draw a person in a scene as a square picture of `size` pixels; the same arguments always give the same pixels."""
    canvas_px = size * _SUPERSAMPLING
    rng = np.random.default_rng(scene.seed)
    background = draw_place(scene.place, size_px=size, rng=rng).resize((canvas_px, canvas_px), Image.Resampling.NEAREST)
    pose = Pose(scene, size_px=canvas_px)
    canvas = Canvas(background, ink_px=_INK_WIDTH * pose.unit)
    head = Head(identity, scene, pose)
    head.draw(canvas)
    image = apply_light(np.asarray(canvas.image.reduce(_SUPERSAMPLING)), light=scene.light, brightness=scene.brightness)
    image = apply_medium(image, scene.medium, seed=scene.seed)
    mask = np.where(np.asarray(canvas.mask.reduce(_SUPERSAMPLING)) >= 128, np.uint8(255), np.uint8(0))
    return Rendering(image, mask, (head.landmarks / _SUPERSAMPLING).astype(np.float32))
