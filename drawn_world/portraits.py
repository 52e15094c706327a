"""The mini W+ space: a small StyleGAN2 that draws aligned heads from their traits, and the e4e that reads them back.

The generator is not adversarial: it is known exactly how a head with given traits looks, so its mapping
network starts from the traits themselves and the synthesis network learns to draw them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pidiff_core.e4e.config import PRESETS as ENCODERS
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator
from pidiff_core.wplus.codes import WPlusSpace

from .drawn_person import IDENTITY_TRAITS, TRAIT_INDEX, DrawnPerson
from .scene import EXPRESSIONS, Scene

SPACE = WPlusSpace("mini-64", num_styles=10, width=128)
_DELTA_WEIGHT = 2e-2  # e4e's regularisation of each style's difference to the first (Tov et al. 2021, eq. 4)
_CODE_WEIGHT = 0.5
_TRAIT_WEIGHT = 0.5
_FOLLOWED = 0.02  # of a batch, in the running mean and spread of w


def trait_features(person: DrawnPerson, scene: Scene) -> np.ndarray:
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


NUM_FEATURES = len(trait_features(DrawnPerson.sample(np.random.default_rng(0)), Scene()))
GENERATOR = GeneratorConfig(
    size=64, width=SPACE.width, z_dim=NUM_FEATURES, mapping_layers=3, mapping_lr_mul=1.0, channels=(96, 96, 64, 48, 32)
)
ENCODER = ENCODERS["mini-64"]


class Painter(nn.Module):
    """The generator, and a linear reading of every trait from its w.

    The reading gives every trait a share of the variance of w. Without it, hair takes a fifth and a nose a thousandth,
    as in the pictures, and an encoder does not find the nose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator(GENERATOR)
        self.readout = nn.Linear(SPACE.width, NUM_FEATURES)
        self.register_buffer("mean", torch.zeros(SPACE.width))
        self.register_buffer("spread", torch.ones(()))  # root mean square of w over people and numbers

    def read(self, w: Tensor) -> Tensor:
        """(..., D) -> (..., F). A row of at most norm 1 reads only what is at least 1/D of the variance of w."""
        rows = self.readout.weight / self.readout.weight.norm(dim=1, keepdim=True).clamp_min(1)
        return nn.functional.linear((w - self.mean) / self.spread, rows, self.readout.bias)


def drawing_loss(painter: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator against the drawn crop, and the traits read from w. features (B, F); crops (B, 3, 64, 64)."""
    w = painter.generator.mapping(batch["features"])
    with torch.no_grad():
        painter.mean.lerp_(w.float().mean(dim=0), _FOLLOWED)
        painter.spread.lerp_((w.float() - painter.mean).square().mean().sqrt(), _FOLLOWED)
    output = painter.generator.synthesis(w[:, None].expand(-1, SPACE.num_styles, -1), noise=None)
    drawn = reconstruction(output, batch["crops"])
    traits = trait_error(painter.read(w), batch["features"])
    return {"loss": drawn["loss"] + _TRAIT_WEIGHT * traits, "l1": drawn["l1"], "traits": traits}


def trait_error(read: Tensor, features: Tensor) -> Tensor:
    """Squared error of read features (B, ..., F), as a part of their variance over the batch."""
    wanted = features.reshape(len(features), *[1] * (read.dim() - 2), -1)
    return (read.float() - wanted).square().mean() / features.var(dim=0).mean()


class CodeReader(nn.Module):
    """Encoder, and the frozen painter that judges what it read."""

    def __init__(self, painter: Painter, latent_avg: Tensor) -> None:
        super().__init__()
        self.encoder = E4eEncoder(ENCODER)
        self.painter = painter.requires_grad_(False)
        self.register_buffer("latent_avg", latent_avg)


def reading_loss(reader: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder: its codes redraw the clean crop, lie near the person's own w, and tell every trait.

    inputs, crops (B, 3, 64, 64); features (B, F).
    """
    generator = reader.painter.generator
    offsets = reader.encoder(batch["inputs"]).float()
    codes = offsets + reader.latent_avg
    drawn = reconstruction(generator.synthesis(codes, noise=None), batch["crops"])
    w = generator.mapping(batch["features"])
    near = (codes - w[:, None]).square().mean() / w.var(dim=0).mean()
    delta = (offsets[:, 1:] - offsets[:, :1]).square().mean() / w.var(dim=0).mean()
    traits = trait_error(reader.painter.read(codes), batch["features"])
    loss = drawn["loss"] + _CODE_WEIGHT * near + _TRAIT_WEIGHT * traits + _DELTA_WEIGHT * delta
    return {"loss": loss, "l1": drawn["l1"], "near": near, "traits": traits, "delta": delta}


def reconstruction(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """L1 on pixels, on their differences to the neighbours (edges), and on 4x smaller pictures."""
    error = output.float() - target
    pixels = error.abs().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = nn.functional.avg_pool2d(error, 4).abs().mean()
    return {"loss": pixels + 0.5 * edges + coarse, "l1": pixels, "edges": edges}


# What StyleEdit offers in the mini space: name -> the traits, or fields of the scene, at its two ends.
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
    drawn = [(DrawnPerson.sample(rng), Scene.sample(rng, medium="photo")) for _ in range(people)]

    def mean_w(change: dict[str, float | str]) -> Tensor:
        rows = []
        for person, scene in drawn:
            if set(change) <= set(TRAIT_INDEX):
                rows.append(trait_features(person.replace(**change), scene))
            else:
                rows.append(trait_features(person, replace(scene, **change)))
        return generator.mapping(torch.from_numpy(np.stack(rows))).mean(dim=0)

    return {name: (mean_w(high) - mean_w(low))[None] for name, (low, high) in DIRECTIONS.items()}
