"""The mini W+ space: a small StyleGAN2 that draws aligned heads from their traits, and the e4e that reads them back.

The generator is not adversarial: the drawn world says exactly how a head with given traits looks, so its mapping
network starts from the traits themselves and the synthesis network learns to draw them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..e4e.config import PRESETS as ENCODERS
from ..e4e.encoder import E4eEncoder
from ..stylegan2.config import GeneratorConfig
from ..stylegan2.generator import Generator
from ..wplus import WPlusSpace
from .identity import IDENTITY_TRAITS, TRAIT_INDEX, Identity
from .scene import EXPRESSIONS, Scene

SPACE = WPlusSpace("mini-64", num_styles=10, width=128)
_DELTA_WEIGHT = 2e-2  # e4e's regularisation of each style's difference to the first (Tov et al. 2021, eq. 4)
_CODE_WEIGHT = 0.5


def trait_features(person: Identity, scene: Scene) -> np.ndarray:
    """What the mapping network starts from: continuous traits and pose in [-1, 1], categories as one-hot."""
    parts: list[float] = []
    for trait, number in zip(IDENTITY_TRAITS, person.vector):
        if trait.values:
            chosen = round(float(number) * (len(trait.values) - 1))
            parts += [float(index == chosen) for index in range(len(trait.values))]
        else:
            parts.append(2 * float(number) - 1)
    parts += [float(scene.expression == expression) for expression in EXPRESSIONS]
    parts += [scene.yaw, scene.pitch, scene.light, 5 * (scene.brightness - 1), float(scene.medium == "painting"), 1.0]
    return np.array(parts, np.float32)


NUM_FEATURES = len(trait_features(Identity.sample(np.random.default_rng(0)), Scene()))
GENERATOR = GeneratorConfig(
    size=64, width=SPACE.width, z_dim=NUM_FEATURES, mapping_layers=3, mapping_lr_mul=1.0, channels=(96, 96, 64, 48, 32)
)
ENCODER = ENCODERS["mini-64"]


def drawing_loss(generator: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator against the drawn crop. features (B, F); crops (B, 3, 64, 64)."""
    w = generator.mapping(batch["features"])
    output = generator.synthesis(w[:, None].expand(-1, SPACE.num_styles, -1), noise=None)
    return reconstruction(output, batch["crops"])


class CodeReader(nn.Module):
    """Encoder, and the frozen generator that judges what it read."""

    def __init__(self, generator: Generator, latent_avg: Tensor) -> None:
        super().__init__()
        self.encoder = E4eEncoder(ENCODER)
        self.generator = generator.requires_grad_(False)
        self.register_buffer("latent_avg", latent_avg)


def reading_loss(reader: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder: its codes redraw the clean crop and lie near the person's own w. inputs, crops, features."""
    offsets = reader.encoder(batch["inputs"]).float()
    codes = offsets + reader.latent_avg
    drawn = reconstruction(reader.generator.synthesis(codes, noise=None), batch["crops"])
    w = reader.generator.mapping(batch["features"])
    near = (codes - w[:, None]).square().mean() / w.var(dim=0).mean()
    delta = (offsets[:, 1:] - offsets[:, :1]).square().mean() / w.var(dim=0).mean()
    loss = drawn["loss"] + _CODE_WEIGHT * near + _DELTA_WEIGHT * delta
    return {"loss": loss, "l1": drawn["l1"], "near": near, "delta": delta}


def reconstruction(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """L1 on pixels, on their differences to the neighbours (edges), and on 4x smaller pictures."""
    error = output.float() - target
    pixels = error.abs().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = nn.functional.avg_pool2d(error, 4).abs().mean()
    return {"loss": pixels + 0.5 * edges + coarse, "l1": pixels, "edges": edges}


# What StyleEdit offers in the mini space: name -> the traits at its two ends (scene fields where they are no traits).
DIRECTIONS: dict[str, tuple[dict[str, float | str], dict[str, float | str]]] = {
    "smile": ({"expression": "neutral"}, {"expression": "smile"}),
    "surprise": ({"expression": "neutral"}, {"expression": "surprised"}),
    "turn": ({"yaw": -0.8}, {"yaw": 0.8}),
    "light from the right": ({"light": -1.0}, {"light": 1.0}),
    "painting": ({"medium": "photo"}, {"medium": "painting"}),
    "skin tone": ({"skin_tone": 0.0}, {"skin_tone": 1.0}),
    "face width": ({"face_width": 0.0}, {"face_width": 1.0}),
    "jaw": ({"jaw": 0.0}, {"jaw": 1.0}),
    "eye size": ({"eye_size": 0.0}, {"eye_size": 1.0}),
    "brows": ({"brow_thickness": 0.0}, {"brow_thickness": 1.0}),
    "lips": ({"lip_fullness": 0.0}, {"lip_fullness": 1.0}),
    "beard": ({"beard": "none"}, {"beard": "full"}),
    "glasses": ({"glasses": "none"}, {"glasses": "round"}),
    "freckles": ({"marks": "none"}, {"marks": "freckles"}),
    "grey hair": ({"hair_colour": "black"}, {"hair_colour": "grey"}),
    "long hair": ({"hair_style": "short"}, {"hair_style": "long"}),
}


@torch.no_grad()
def edit_directions(generator: Generator, *, people: int = 512, seed: int = 5) -> dict[str, Tensor]:
    """Name -> (1, D): the mean difference of w between the two ends of each trait, over drawn persons."""
    rng = np.random.default_rng(seed)
    drawn = [(Identity.sample(rng), Scene.sample(rng, medium="photo")) for _ in range(people)]

    def mean_w(change: dict[str, float | str]) -> Tensor:
        rows = []
        for person, scene in drawn:
            if set(change) <= set(TRAIT_INDEX):
                rows.append(trait_features(person.replace(**change), scene))
            else:
                rows.append(trait_features(person, replace(scene, **change)))
        return generator.mapping(torch.from_numpy(np.stack(rows))).mean(dim=0)

    return {name: (mean_w(high) - mean_w(low))[None] for name, (low, high) in DIRECTIONS.items()}
