"""What the benchmark of the embedded model measures on pictures and codes whose people are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.mini_studio import as_bchw, drawn_with_points

FINE = ("eye_size", "brow_thickness", "brow_tilt", "nose_width", "nose_length", "mouth_width", "lip_fullness")
CHOICES = {"hair": "hair_style", "beard": "beard", "glasses": "glasses", "eyes": "eye_colour"}


def trait_measures(read: Any, people: Sequence[Any]) -> dict[str, float]:
    """Mean correlation of the fine traits, share of right values of the others. read (n, number of traits)."""
    from drawn_world.readers import correlation, trait_targets

    truth = trait_targets(list(people))
    fine = [trait_index(name) for name in FINE]
    right = {
        name: float((read[:, trait_index(trait)] == truth[:, trait_index(trait)]).float().mean())
        for name, trait in CHOICES.items()
    }
    return {"fine": float(correlation(read[:, fine], truth[:, fine]).mean()), **right}


def chance() -> dict[str, float]:
    """How often the most frequent value of each trait is right."""
    from drawn_world.drawn_person import IDENTITY_TRAITS

    return {name: max(IDENTITY_TRAITS[trait_index(trait)].probabilities) for name, trait in CHOICES.items()}


def independent_judge() -> Any:
    """The recogniser of the optional extra `eval`, or None if it is not installed."""
    from pidiff_core.errors import PIDiffError
    from pidiff_core.face.recognisers import recogniser

    try:
        return recogniser("dlib")
    except PIDiffError:
        return None


def gradient_energy(images: Any) -> float:
    """Mean squared difference of neighbouring pixels of (B, C, H, W), right and below."""
    return float(images.diff(dim=-1).square().mean() + images.diff(dim=-2).square().mean())


def psnr(shown: Any, images: Any, *, span: float) -> float:
    """Mean over the pictures (B, ...) in dB. span: from the darkest to the brightest value."""
    squared = (shown - images).square().flatten(1).mean(dim=1) / span**2
    return float((-10 * squared.log10()).mean())


def intersection_over_union(first: Any, second: Any) -> Any:
    """Of booleans (B, H, W): (B,); 1 where both are empty."""
    both, either = (first & second).sum(dim=(1, 2)), (first | second).sum(dim=(1, 2))
    return (both / either.clamp_min(1)).where(either > 0, both.new_ones(()).float())


def pairwise_difference(images: Any) -> Any:
    """Mean absolute difference in [0, 1] over all pairs of pictures (n, H, W, 3)."""
    import torch

    flat = images.flatten(1)
    return torch.pdist(flat, p=1).mean() / flat.shape[1]


def share_right(labels: Sequence[Sequence[dict[str, str]]], asked: Sequence[dict[str, str]], name: str) -> float:
    """How often a label of pictures is what their prompt asks for; both in the order of the prompts."""
    right = [one[name] == wanted[name] for pictures, wanted in zip(labels, asked) for one in pictures]
    return sum(right) / len(right)


def mean(parts: Sequence[Any]) -> float:
    """Mean over all values of tensors of any length."""
    import torch

    return float(torch.cat([part.float() for part in parts]).mean())


def white_crops(people: Sequence[Any], scenes: Sequence[Any]) -> Any:
    """Renders as the encoder reads them: aligned heads on white (n, 3, 64, 64) in [-1, 1]."""
    import torch

    from drawn_world.crops import cut, on_white

    crops = []
    for person, scene in zip(people, scenes):
        image, mask, points = drawn_with_points(person, scene)
        stacked = torch.cat([as_bchw(image[None]), mask[None, None] * 2.0 - 1], dim=1)
        crop = cut(stacked, points[None] - 0.5, outside=-1.0)
        crops.append(torch.cat([crop[:, :3], (crop[:, 3:] + 1) / 2], dim=1))
    return on_white(torch.cat(crops))


def measured_codes(
    generator: Any, encode: Callable[[Any], Any], readers: Any, *, seed: int, fitted: int
) -> dict[str, dict[str, float]]:
    """Traits read linearly from true w and from the encoder's codes, and by the reader from the generator.

    encode: crops (B, 3, 64, 64) to codes (B, S, D). seed: of a world of people. fitted: renders that the probes are
    fitted on; a third as many more are read.
    """
    import numpy as np
    import torch

    from drawn_world import data
    from drawn_world.portraits import trait_features
    from drawn_world.readers import linear_probe, read_crops

    world = data.World(seed=seed, people=fitted * 4 // 3, scenes=1)
    people = [world.person(index) for index in range(len(world))]
    scenes = [world.scene(index, medium="photo") for index in range(len(world))]
    features = torch.from_numpy(np.stack([trait_features(*both) for both in zip(people, scenes)]))
    w = generator.mapping(features)
    white = white_crops(people, scenes)
    codes = torch.cat([encode(part) for part in white.split(100)])
    held = people[fitted:]
    portraits = [
        generator.synthesis(part[:, None].expand(-1, generator.config.num_styles, -1), noise=None)
        for part in w[fitted:].split(100)
    ]
    portraits = torch.cat(portraits).clamp(-1, 1)
    return {
        "render": trait_measures(readers.read_traits(read_crops(white[fitted:])), held),
        "true w": trait_measures(linear_probe(w, people, fitted=fitted), held),
        "encoder": trait_measures(linear_probe(codes.flatten(1), people, fitted=fitted, ridge=30.0), held),
        "generator": {
            **trait_measures(readers.read_traits(read_crops(portraits)), held),
            "db": psnr(portraits, white[fitted:], span=2),
        },
        "chance": {"fine": 0.0, **chance()},
    }


def trait_index(name: str) -> int:
    from drawn_world.drawn_person import TRAIT_INDEX

    return TRAIT_INDEX[name]
