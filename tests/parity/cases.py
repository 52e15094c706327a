"""What both sides of a comparison are given: a W+ Adapter file, the inputs of its sites, the landmarks of faces.

Everything comes from seeds or from a few numbers here, so that `record.py`, which runs the public reference code, and
the tests, which run ours, start from the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.parity.seeded import normal

CONTEXT, HEADS, PIXELS = 768, 8, 64
SCALE = 0.7  # the strength at which whole layers are compared
# Stable Diffusion 1.5: processor number in diffusers' order (down, up, mid) -> channels of the site.
WIDTHS = dict(
    zip(range(1, 32, 2), [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280], strict=True)
)


def wplus_adapter_file() -> dict[str, dict[str, Tensor]]:
    """Both state dicts of `wplus_adapter.bin`, at full size.

    The queries are enlarged, so that pixels prefer one token over another, and LayerNorm's bias, which is all that the
    unconditional half sees, is not small.
    """

    def linear(name: str, out_width: int, in_width: int, gain: float = 1.0) -> Tensor:
        return normal(name, (out_width, in_width)) * (gain * in_width**-0.5)

    projection = {
        f"proj_{group}.weight": linear(f"proj_{group}.weight", CONTEXT, 512 * styles)
        for group, styles in enumerate((4, 4, 4, 6))
    }
    projection["norm.weight"] = 1.0 + 0.1 * normal("norm.weight", (CONTEXT,))
    projection["norm.bias"] = 0.5 * normal("norm.bias", (CONTEXT,))
    branches = {}
    for number, width in WIDTHS.items():
        for part, in_width, gain in (("k", CONTEXT, 1.0), ("v", CONTEXT, 1.0), ("q", width, 8.0)):
            name = f"{number}.to_{part}_wplus.weight"
            branches[name] = linear(name, width, in_width, gain)
    return {"w_proj": projection, "wplus_adapter": branches}


def wplus_codes() -> Tensor:
    """Two identities (2, 18, 512)."""
    return normal("codes", (2, 18, 512))


def text_attention(number: int) -> dict[str, Tensor]:
    """The host's own cross-attention at a site, named as in diffusers."""
    width = WIDTHS[number]
    shapes = {"to_q": (width, width), "to_k": (width, CONTEXT), "to_v": (width, CONTEXT), "to_out.0": (width, width)}
    state = {
        f"{part}.weight": normal(f"{number}.{part}", shape) * shape[1] ** -0.5 * (2.0 if part == "to_q" else 1.0)
        for part, shape in shapes.items()
    }
    return state | {"to_out.0.bias": 0.1 * normal(f"{number}.to_out.0.bias", (width,))}


def site_inputs(number: int) -> tuple[Tensor, Tensor]:
    """Hidden states (2, N, C) and text (2, 77, 768) that reach a site."""
    return normal(f"{number}.hidden", (2, PIXELS, WIDTHS[number])), normal(f"{number}.text", (2, 77, CONTEXT))


@dataclass(frozen=True)
class Face:
    """Five landmarks in one picture; (x, y) in px, in the order left eye, right eye, nose, corners of the mouth."""

    picture: str
    size: tuple[int, int]  # width, height
    five: tuple[tuple[float, float], ...]

    def landmarks(self, name: str) -> Tensor:
        """68 points (68, 2) in iBUG order on whole pixels, as dlib gives them: the eyes' outlines are spread around
        their centres, the nose's tip and the mouth's corners lie where they are, the rest is the face's middle."""
        five = torch.tensor(self.five)
        eye_distance = float((five[1] - five[0]).norm())
        points = five.mean(dim=0).repeat(68, 1)
        points[36:42], points[42:48] = five[0], five[1]
        points[30], points[48], points[54] = five[2], five[3], five[4]
        points[36:48] += 0.15 * eye_distance * normal(f"{name}.eyes", (12, 2))
        return points.round()


# What this project's MTCNN detector finds in the three reference photos, to a tenth of a pixel. Its faces of the group
# reach out of the picture or are small. The last one is far larger than the crop, which the recipe reduces first.
FACES = {
    "astronaut": Face(
        "astronaut.png", (512, 512), ((205.0, 101.7), (246.8, 103.7), (224.7, 129.0), (201.7, 139.2), (245.3, 141.9))
    ),
    "right of three": Face(
        "three_people.jpg", (600, 337), ((403.2, 99.7), (450.7, 99.2), (428.9, 130.1), (408.2, 154.9), (446.3, 154.7))
    ),
    "cut by the top border": Face(
        "three_people.jpg", (600, 337), ((220.7, 12.4), (258.5, 13.4), (238.4, 38.4), (222.1, 47.9), (254.9, 50.1))
    ),
    "left of three, tilted": Face(
        "three_people.jpg", (600, 337), ((69.2, 50.5), (96.3, 43.9), (91.0, 63.1), (72.3, 76.3), (101.4, 70.6))
    ),
    "aligned": Face(
        "aligned_512.png", (512, 512), ((192.1, 247.2), (320.8, 244.5), (263.5, 335.6), (189.8, 366.2), (322.8, 363.0))
    ),
    "large": Face(
        "no photo", (2201, 2003), ((820.0, 900.0), (1375.0, 975.0), (1060.0, 1260.0), (800.0, 1490.0), (1240.0, 1550.0))
    ),
}
