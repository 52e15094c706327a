"""What surrounds a drawn person: everything in a picture that is not identity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PLACES = ("forest", "beach", "city", "room", "desert", "space")
CLOTHES = ("red", "yellow", "green", "blue", "purple", "white", "black")
MEDIUMS = ("photo", "painting", "sketch")
EXPRESSIONS = ("neutral", "smile", "surprised")

# A sketch shows no colours, so it teaches little about a person: kept rare.
_MEDIUM_WEIGHTS = (0.81, 0.15, 0.04)
_EXPRESSION_WEIGHTS = (0.4, 0.4, 0.2)
_MOST_YAW = 2 / 3  # of what can be drawn: sampled heads turn by at most 16 degrees


@dataclass(frozen=True)
class Scene:
    """The nuisance of one picture.

    place, clothes, medium, expression: one of PLACES, CLOTHES, MEDIUMS, EXPRESSIONS.
    yaw, pitch, roll: -1..1 of 24, 8 and 8 degrees; yaw 1 looks to the picture's right, pitch 1 down, roll 1 clockwise.
    light: -1 (from the left) .. 1 (from the right). brightness: factor, about 0.85..1.12.
    face_size: height of the face (skull to chin) as a part of the picture, 0.5..0.72.
    offset_x, offset_y: -1..1 of the room that the whole head leaves in the picture.
    seed: variation of the background and the medium's texture.
    """

    place: str = "room"
    clothes: str = "blue"
    medium: str = "photo"
    expression: str = "neutral"
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    light: float = 0.0
    brightness: float = 1.0
    face_size: float = 0.6
    offset_x: float = 0.0
    offset_y: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("place", PLACES),
            ("clothes", CLOTHES),
            ("medium", MEDIUMS),
            ("expression", EXPRESSIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}; it can be {', '.join(allowed)}")
        for name, low, high in (
            ("yaw", -1, 1), ("pitch", -1, 1), ("roll", -1, 1), ("light", -1, 1), ("brightness", 0.5, 1.5),
            ("face_size", 0.5, 0.72), ("offset_x", -1, 1), ("offset_y", -1, 1),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], not {getattr(self, name)}")

    @classmethod
    def sample(cls, rng: np.random.Generator, **fixed: Any) -> Scene:
        """Draw a scene; `fixed` fields are set afterwards, so the other fields do not depend on which are fixed."""
        pick = rng.random(4)
        # Small turns are more common than large ones, as in portraits.
        yaw, pitch, roll = rng.uniform(-1, 1, 3) * rng.uniform(0.2, 1, 3)
        light, offset_x, offset_y = rng.uniform(-1, 1, 3)
        scene = cls(
            place=PLACES[int(pick[0] * len(PLACES))],
            clothes=CLOTHES[int(pick[1] * len(CLOTHES))],
            medium=_weighted(MEDIUMS, _MEDIUM_WEIGHTS, pick[2]),
            expression=_weighted(EXPRESSIONS, _EXPRESSION_WEIGHTS, pick[3]),
            yaw=float(yaw * _MOST_YAW),
            pitch=float(pitch),
            roll=float(roll),
            light=float(light),
            brightness=float(rng.uniform(0.86, 1.1)),
            face_size=float(rng.uniform(0.6, 0.72)),
            offset_x=float(offset_x),
            offset_y=float(offset_y),
            seed=int(rng.integers(2**31)),
        )
        return replace(scene, **fixed)


def _weighted(values: tuple[str, ...], weights: tuple[float, ...], uniform: float) -> str:
    chosen = int(np.searchsorted(np.cumsum(weights), uniform, side="right"))
    return values[min(chosen, len(values) - 1)]
