"""Networks that read the drawn world's exact labels from pictures: what a picture shows, told without comparing.

They are trained on renders alone, on people of a world of their own, apart from every network that they measure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pidiff_core.face.crop import head_mask
from pidiff_core.face.landmark_input import landmarks_in_crop
from pidiff_core.files.container import read_container, write_container
from pidiff_core.files.weights import load_strict, strip_prefix
from pidiff_core.training.loop import LoopConfig, fresh, train

from .crops import CROP_PX, labelled_crops
from .data import World, batch_indices, rendered
from .drawn_person import IDENTITY_TRAITS, DrawnPerson
from .render import render
from .scene import CLOTHES, EXPRESSIONS, MEDIUMS, PLACES, Scene

READER_WORLD = World(seed=4, people=10_000, scenes=1)
MASK_CELLS = 32  # cells a side of the head mask that SceneReader finds
_LABELS = {"place": PLACES, "clothes": CLOTHES, "medium": MEDIUMS, "expression": EXPRESSIONS}
HEAD_NUMBERS = ("yaw", "pitch", "light")  # of the scene, seen on the head; in [-1, 1]
_HEAD_LABELS = {"expression": EXPRESSIONS, "medium": MEDIUMS}
# The values of each attribute of a portrait that is a choice.
ATTRIBUTE_VALUES = {trait.name: trait.values for trait in IDENTITY_TRAITS if trait.values} | _HEAD_LABELS
_SCENE_PX = 64


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU(),
        nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels),
    )  # fmt: skip


class _Body(nn.Module):
    """(B, 3, 64, 64) -> features (B, 128, 8, 8) and, from the way there, (B, 32, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
            for before, width in zip((3, *widths), widths)
        )
        self.blocks = nn.ModuleList(_block(width) for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = []
        for step, block in zip(self.steps, self.blocks):
            x = step(x)
            x = F.silu(x + block(x))
            maps.append(x)
        return x, maps[0]


class _CropReader(nn.Module):
    """(B, 3, 64, 64) aligned heads in [-1, 1], as `read_crops` makes them -> (B, outputs)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = _Body()
        self.squeeze = nn.Conv2d(128, 48, 1)
        self.head = nn.Sequential(nn.Linear(48 * 64, 128), nn.SiLU(), nn.Linear(128, outputs))

    def forward(self, crops: Tensor) -> Tensor:
        features, _ = self.body(crops)
        return self.head(self.squeeze(features).flatten(1))


class TraitReader(_CropReader):
    """One number for each continuous trait, in [-1, 1]; logits of the values for each categorical one."""

    def __init__(self) -> None:
        super().__init__(NUM_TRAIT_OUTPUTS)


class HeadReader(_CropReader):
    """What the scene does to a head: HEAD_NUMBERS, then logits of expression and medium."""

    def __init__(self) -> None:
        super().__init__(len(HEAD_NUMBERS) + sum(map(len, _HEAD_LABELS.values())))


class SceneReader(nn.Module):
    """(B, 3, 64, 64) whole pictures in [-1, 1] -> logits of place, clothes, medium and expression; head mask logits.

    The mask is (B, MASK_CELLS, MASK_CELLS).
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()
        self.squeeze = nn.Conv2d(128, 32, 1)
        self.head = nn.Linear(32 * 64, sum(map(len, _LABELS.values())))
        self.mask = nn.Sequential(nn.Conv2d(32 + 128, 32, 3, 1, 1), nn.SiLU(), nn.Conv2d(32, 1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, fine = self.body(images)
        wide = F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
        return self.head(self.squeeze(features).flatten(1)), self.mask(torch.cat([fine, wide], dim=1)).squeeze(1)


def _columns() -> dict[str, slice]:
    columns, start = {}, 0
    for trait in IDENTITY_TRAITS:
        columns[trait.name] = slice(start, start + max(1, len(trait.values)))
        start += max(1, len(trait.values))
    return columns


TRAIT_COLUMNS = _columns()  # the outputs of TraitReader that belong to each trait
NUM_TRAIT_OUTPUTS = max(columns.stop for columns in TRAIT_COLUMNS.values())


def trait_targets(people: list[DrawnPerson]) -> Tensor:
    """(B, number of traits): continuous traits in [-1, 1], categorical ones as the value's index."""
    rows = torch.tensor(np.stack([person.vector for person in people]))
    counts = torch.tensor([len(trait.values) for trait in IDENTITY_TRAITS])
    return torch.where(counts > 0, (rows * (counts - 1)).round(), 2 * rows - 1)


def trait_loss(reader: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squared error of continuous traits, cross-entropy of categorical ones. crops (B, 3, 64, 64); targets."""
    output = reader(batch["crops"]).float()
    numbers, choices = [], []
    for index, trait in enumerate(IDENTITY_TRAITS):
        columns, target = output[:, TRAIT_COLUMNS[trait.name]], batch["targets"][:, index]
        if trait.values:
            choices.append(F.cross_entropy(columns, target.long()))
        else:
            numbers.append((columns[:, 0] - target).square().mean())
    number, choice = torch.stack(numbers).mean(), torch.stack(choices).mean()
    return {"loss": 3 * number + choice, "number": number, "choice": choice}


def head_loss(reader: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squared error of HEAD_NUMBERS, cross-entropy of the labels. crops (B, 3, 64, 64); numbers (B, 3); labels."""
    output = reader(batch["crops"]).float()
    widths = [len(HEAD_NUMBERS), *(len(values) for values in _HEAD_LABELS.values())]
    numbers, *logits = output.split(widths, dim=1)
    number = (numbers - batch["numbers"]).square().mean()
    choice = torch.stack([F.cross_entropy(part, batch["labels"][:, i]) for i, part in enumerate(logits)]).mean()
    return {"loss": 3 * number + choice, "number": number, "choice": choice}


def scene_loss(reader: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of labels and of the head mask. images (B, 3, 64, 64); labels (B, 4); masks (B, 32, 32)."""
    logits, mask = reader(batch["images"])
    parts = logits.float().split([len(values) for values in _LABELS.values()], dim=1)
    label = torch.stack([F.cross_entropy(part, batch["labels"][:, i]) for i, part in enumerate(parts)]).mean()
    where = F.binary_cross_entropy_with_logits(mask.float(), batch["masks"])
    return {"loss": label + where, "label": label, "where": where}


def read_crops(crops: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """What TraitReader looks at: heads (B, 3, 64, 64), white outside the geometric head mask and the exact one."""
    seen = head_mask(landmarks_in_crop(CROP_PX), size=(CROP_PX, CROP_PX))
    if mask is not None:
        seen = seen * mask
    return crops * seen + (1 - seen)


def softened(images: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Half of the pictures (B, 3, H, W) a little blurred or noisy: a reader should forgive what autoencoders do."""
    side = images.shape[-1]
    small = F.interpolate(images, scale_factor=float(rng.uniform(0.5, 0.9)), mode="bilinear", antialias=True)
    blurred = F.interpolate(small, (side, side), mode="bilinear")
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)) * float(rng.uniform(0, 0.12))
    choice = torch.from_numpy(rng.random((len(images), 1, 1, 1)))
    return torch.where(choice < 0.25, blurred, torch.where(choice < 0.5, images + noise, images)).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Readers:
    """The three networks, trained."""

    traits: TraitReader
    scenes: SceneReader
    heads: HeadReader

    @torch.no_grad()
    def read_traits(self, crops: Tensor) -> Tensor:
        """Crops of `read_crops` -> (B, number of traits), as `trait_targets` tells the truth."""
        return chosen_traits(self.traits(crops))

    @torch.no_grad()
    def read_attributes(self, crops: Tensor) -> dict[str, Tensor]:
        """Crops of `read_crops` -> every attribute of a portrait.

        (B, 1) for a number, which is in [-1, 1] in renders; (B, n) probabilities for a choice of ATTRIBUTE_VALUES.
        """
        output = self.traits(crops)
        found = {trait.name: output[:, TRAIT_COLUMNS[trait.name]] for trait in IDENTITY_TRAITS}
        widths = [*(1 for _ in HEAD_NUMBERS), *(len(values) for values in _HEAD_LABELS.values())]
        found |= dict(zip((*HEAD_NUMBERS, *_HEAD_LABELS), self.heads(crops).split(widths, dim=1)))
        return {name: part.softmax(dim=1) if part.shape[1] > 1 else part for name, part in found.items()}

    @torch.no_grad()
    def read_scenes(self, images: Tensor) -> tuple[list[dict[str, str]], Tensor]:
        """Pictures (B, 3, H, H) in [-1, 1] -> place, clothes, medium and expression of each; head masks (B, H, H)."""
        small = F.interpolate(images, (_SCENE_PX, _SCENE_PX), mode="bilinear", antialias=True)
        logits, mask = self.scenes(small)
        parts = logits.split([len(values) for values in _LABELS.values()], dim=1)
        chosen = torch.stack([part.argmax(dim=1) for part in parts], dim=1).tolist()
        labels = [{name: _LABELS[name][index] for name, index in zip(_LABELS, row)} for row in chosen]
        large = F.interpolate(mask[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
        return labels, large[:, 0] > 0


def chosen_traits(outputs: Tensor) -> Tensor:
    """(B, NUM_TRAIT_OUTPUTS) of TraitReader, or of a linear probe -> (B, number of traits) of `trait_targets`."""
    columns = [outputs[:, TRAIT_COLUMNS[trait.name]] for trait in IDENTITY_TRAITS]
    return torch.stack(
        [part.argmax(dim=1).float() if part.shape[1] > 1 else part[:, 0] for part in columns],
        dim=1,
    )


def trained_readers(folder: Path, *, world: World = READER_WORLD, steps: int = 800, batch_size: int = 64) -> Readers:
    """Open the readers in `folder`, or train them: resumable, minutes of one core.

    A changed renderer or network trains new ones, beside those of before. Training needs the optional extra `train`.
    """
    folder = folder / f"readers-{renderer_hash()}-{len(world)}-{steps}"
    readers = Readers(fresh(TraitReader, seed=35), fresh(SceneReader, seed=36), fresh(HeadReader, seed=39))
    file = folder / "readers.safetensors"
    networks = {"traits": readers.traits, "scenes": readers.scenes, "heads": readers.heads}
    if not file.exists():
        _train(readers, folder, world=world, steps=steps, batch_size=batch_size)
        states = {f"{name}.{key}": value for name, part in networks.items() for key, value in part.state_dict().items()}
        write_container(file, states, kind="drawn-world-readers", config={})
    tensors, _ = read_container(file, kind="drawn-world-readers")
    for name, network in networks.items():
        load_strict(network, strip_prefix(tensors, f"{name}."), name=f"the reader of {name}", dtype=torch.float32)
        network.eval().requires_grad_(False)
    return readers


def _train(readers: Readers, folder: Path, *, world: World, steps: int, batch_size: int) -> None:
    pictures = rendered(world, folder)

    def looked_at(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        crops = labelled_crops(pictures, indices, rng=rng, jitter=0.04)
        exact = torch.from_numpy(rng.random((batch_size, 1, 1, 1)) < 0.5)
        return read_crops(softened(crops[:, :3], rng=rng), mask=torch.where(exact, crops[:, 3:], torch.ones(())))

    def traits(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(world), batch_size, seed=32)
        people = [pictures.people[index // world.scenes] for index in indices]
        return {"crops": looked_at(indices, np.random.default_rng([31, step])), "targets": trait_targets(people)}

    def heads(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(world), batch_size, seed=40)
        numbers, labels = head_targets([pictures.scenes[index] for index in indices])
        return {"crops": looked_at(indices, np.random.default_rng([41, step])), "numbers": numbers, "labels": labels}

    def scenes(step: int) -> dict[str, Tensor]:
        indices = batch_indices(step, len(world), batch_size, seed=33)
        images = F.interpolate(pictures.image_batch(indices), (_SCENE_PX, _SCENE_PX), mode="bilinear", antialias=True)
        return {
            "images": softened(images, rng=np.random.default_rng([34, step])),
            "labels": scene_labels([pictures.scenes[index] for index in indices]),
            "masks": F.adaptive_avg_pool2d(pictures.mask_batch(indices), MASK_CELLS).squeeze(1),
        }

    def config(steps: int, *, seed: int) -> LoopConfig:
        settings = {"learning_rate": 2e-3, "warmup_steps": 50, "ema_decay": 0.99, "precision": "auto"}
        return LoopConfig(steps=steps, compiled=False, seed=seed, **settings)

    train(readers.traits, config(steps, seed=37), batch=traits, loss=trait_loss, folder=folder / "traits")
    few = config(max(1, steps // 4), seed=38)  # scenes are quickly learned
    train(readers.scenes, few, batch=scenes, loss=scene_loss, folder=folder / "scenes")
    some = config(max(1, steps // 2), seed=42)
    train(readers.heads, some, batch=heads, loss=head_loss, folder=folder / "heads")


def scene_labels(scenes: list[Scene]) -> Tensor:
    """(B, 4) int64: the index of place, clothes, medium and expression."""
    return torch.tensor([[values.index(getattr(scene, name)) for name, values in _LABELS.items()] for scene in scenes])


def head_targets(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """(B, 3) HEAD_NUMBERS; (B, 2) int64: the index of expression and medium."""
    numbers = torch.tensor([[getattr(scene, name) for name in HEAD_NUMBERS] for scene in scenes])
    rows = [[values.index(getattr(scene, name)) for name, values in _HEAD_LABELS.items()] for scene in scenes]
    return numbers, torch.tensor(rows)


def correlation(found: Tensor, truth: Tensor) -> Tensor:
    """Pearson's, over the rows of (B, n): (n,); 0 where either does not vary."""
    found, truth = found - found.mean(dim=0), truth - truth.mean(dim=0)
    norms = found.norm(dim=0) * truth.norm(dim=0)
    return torch.where(norms > 1e-6, (found * truth).sum(dim=0) / norms.clamp_min(1e-6), torch.zeros(()))


def linear_probe(inputs: Tensor, people: list[DrawnPerson], *, fitted: int, ridge: float = 1.0) -> Tensor:
    """Traits read linearly: fitted on the first `fitted` rows of inputs (N, D), told for the others.

    Returns (N - fitted, number of traits), as `trait_targets` tells the truth.
    """
    mean, std = inputs[:fitted].mean(dim=0), inputs[:fitted].std(dim=0).clamp_min(1e-6)
    x = torch.cat([(inputs - mean) / std, torch.ones(len(inputs), 1)], dim=1).double()
    targets = trait_targets(people)
    wanted = []
    for index, trait in enumerate(IDENTITY_TRAITS):
        column = targets[:, index]
        wanted.append(
            F.one_hot(column.long(), len(trait.values)).double() if trait.values else column[:, None].double()
        )
    y = torch.cat(wanted, dim=1)[:fitted]
    known = x[:fitted]
    weights = torch.linalg.solve(known.T @ known + ridge * torch.eye(x.shape[1], dtype=torch.float64), known.T @ y)
    return chosen_traits((x[fitted:] @ weights).float())


def renderer_hash() -> str:
    """Changes with what is drawn and with the networks' shapes, not with the renderer's code."""
    world = World(seed=READER_WORLD.seed, people=8, scenes=1)
    drawn = b"".join(render(world.person(index), world.scene(index)).image.tobytes() for index in range(len(world)))
    networks = (TraitReader(), SceneReader(), HeadReader())
    shapes = [f"{key} {tuple(value.shape)}" for network in networks for key, value in network.state_dict().items()]
    return hashlib.sha256(drawn + "\n".join(shapes).encode()).hexdigest()[:10]
