"""`pidiff evaluate`: one or more adapters on the same people, prompts and seeds.

The people come from prepared photos. One photo of each gives the codes; the judge's gallery is made of the others, as
the base's VAE shows them. Every picture is also drawn by the base alone from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adapter.adapter import IdentityAdapter
from ...errors import PIDiffError
from ...face.recognisers import Recogniser, vectors
from ...wplus.codes import WPlus
from ...wplus.directions import Direction, apply_direction
from ..bases.base import Base, TextCondition
from ..data.prepared import PreparedData
from ..diffusers_processor import attach_identity
from ..sampling import mean_map, sample
from .likeness import faces_found, gallery_of, retrieval, similarity
from .measures import ClipAlignment, background_drift, diversity, edit_response, intersection_over_union
from .options import EvaluateOptions

HeadFinder = Callable[
    [Tensor], Tensor | None
]  # a picture (1, H, W, 3) -> its head's mask (1, H, W), None without a face
Progress = Callable[[str, int, int], None]  # what, done, in all
_GALLERY = 4  # photos of each person at most
_TIMESTEPS = (300, 500, 700)  # at which localisation is compared with the masks of real photos
_FIRST_SEED = 1000


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured and drawn.

    Args:
        measures: adapter's name -> measure -> number; NaN for what could not be measured.
        pictures: adapter's name -> (people * prompts * seeds, H, W, 3); "" is the base alone. Person by person.
        references: (H, W, 3) each: the photos that the codes were read from.
        notes: what was not measured and why.
    """

    measures: Mapping[str, Mapping[str, float]]
    pictures: Mapping[str, Tensor]
    references: Sequence[Tensor]
    notes: list[str]


def evaluate(
    options: EvaluateOptions,
    *,
    base: Base,
    adapters: Mapping[str, IdentityAdapter],
    data: PreparedData,
    judge: Recogniser,
    find_head: HeadFinder,
    clip: ClipAlignment | None = None,
    direction: Direction | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Draw and measure.

    Args:
        adapters: by the name that the table shows; all for this base.
        data: prepared with this base.
        judge: a recogniser that took no part in training.
        find_head: finds the head in a drawn picture.
        clip: for the alignment with the prompt.
        direction: for the edit response.
        progress: called as pictures are drawn.

    Raises:
        PIDiffError: fewer than two people in the data.
    """
    people = _chosen_people(data, options.people)
    cast = _Cast(data, people, base)
    size = (data.resolution, data.resolution)
    prompts = [prompt for _ in people for prompt in options.prompts for _ in range(options.seeds)]
    who = [row for row in range(len(people)) for _ in range(len(options.prompts) * options.seeds)]
    each = range(_FIRST_SEED, _FIRST_SEED + options.seeds)
    seeds = [seed for _ in people for _ in options.prompts for seed in each]
    texts = {prompt: base.encode_text([prompt]) for prompt in options.prompts}

    def draw(what: str, binding: Any = None, tokens: Tensor | None = None) -> Tensor:
        parts = []
        for start in range(0, len(prompts), options.batch_size):
            rows = slice(start, min(start + options.batch_size, len(prompts)))
            images, _ = sample(
                base,
                binding,
                tokens=None if tokens is None else tokens[who[rows]],
                text=_joined([texts[prompt] for prompt in prompts[rows]]),
                null_text=data.null_text,
                size_px=size,
                seeds=seeds[rows],
                strength=options.strength,
                steps=options.steps,
                cfg=options.cfg,
            )
            parts.append(images)
            if progress is not None:
                progress(what, rows.stop, len(prompts))
        return torch.cat(parts)

    gallery = gallery_of(vectors(judge, cast.gallery), cast.gallery_people)
    plain = draw("base alone")
    heads = _heads(plain, find_head)
    measured: dict[str, dict[str, float]] = {}
    pictures = {"": plain}
    measured[""] = _identity(judge, plain, who, gallery) | {
        "text_alignment": _mean(clip(plain, prompts)) if clip else float("nan"),
        "diversity": _diversity(plain, options),
    }
    for name, adapter in adapters.items():
        binding = attach_identity(base.unet, adapter.to(base.unet.device))
        try:
            wplus = WPlus.from_offsets(cast.offsets, data.latent_avg, space=data.space)
            drawn = pictures[name] = draw(name, binding, adapter.tokens(wplus))
            own_heads = _heads(drawn, find_head)
            both = [row for row, (a, b) in enumerate(zip(heads, own_heads)) if a is not None and b is not None]
            measured[name] = _identity(judge, drawn, who, gallery) | {
                "text_alignment": _mean(clip(drawn, prompts)) if clip else float("nan"),
                "background_drift": _mean(
                    background_drift(
                        drawn[both], plain[both], heads=_stack(own_heads, both), base_heads=_stack(heads, both)
                    )
                    if both
                    else torch.empty(0)
                ),
                "localisation_iou": _localisation(base, data, adapter, binding, people=people),
                "diversity": _diversity(drawn, options),
            }
            if direction is not None:
                moved = [
                    draw(f"{name}, edited", binding, adapter.tokens(apply_direction(wplus, direction, amount=amount)))
                    for amount in (options.edit_strength, -options.edit_strength)
                ]
                seen = [row for row, head in enumerate(own_heads) if head is not None]
                if seen:
                    inside, outside = edit_response(moved[0][seen], moved[1][seen], heads=_stack(own_heads, seen))
                    measured[name] |= {"edit_inside": _mean(inside), "edit_outside": _mean(outside)}
        finally:
            binding.detach()
    return Evaluation(measured, pictures, cast.references, _notes(options, clip, direction, gallery, len(people)))


class _Cast:
    """The people: whose codes, and what they look like to the judge."""

    def __init__(self, data: PreparedData, people: Sequence[Sequence[int]], base: Base) -> None:
        self.offsets = torch.stack([data.codes(photos[0]) for photos in people])
        self.references = torch.cat([_shown(base, data.latents(photos[0])) for photos in people])
        rows = [
            (person, photo)
            for person, photos in enumerate(people)
            for photo in (photos[1 : 1 + _GALLERY] or photos[:1])
        ]
        self.gallery_people = [person for person, _ in rows]
        self.gallery = [_shown(base, data.latents(photo))[0] for _, photo in rows]


def _chosen_people(data: PreparedData, count: int) -> list[list[int]]:
    """Photos of those people who have the most; of equal ones the first."""
    people = sorted(data.people, key=len, reverse=True)[:count]
    if len(people) < 2:
        raise PIDiffError(
            f"An evaluation needs at least two people, but {data.folder} has {len(people)}. Set prepare.people to "
            "'subfolders' or a CSV file, or add photos of others."
        )
    return people


def _identity(judge: Recogniser, images: Tensor, who: list[int], gallery: dict[int, Tensor]) -> dict[str, float]:
    found = vectors(judge, images)
    return {
        "retrieval": retrieval(found, who, gallery=gallery),
        "similarity": similarity(found, who, gallery=gallery),
        "faces_found": faces_found(found),
    }


@torch.no_grad()
def _localisation(
    base: Base, data: PreparedData, adapter: IdentityAdapter, binding: Any, *, people: Sequence[Sequence[int]]
) -> float:
    """Mean IoU of the localisation map with the head's mask on the photos themselves, noised to three steps."""
    scores = []
    device = next(base.unet.parameters()).device
    for photos in people:
        row = photos[-1]
        latents, mask = data.latents(row)[None].to(device), data.face_mask(row)[None]
        text = data.text(row)
        codes = WPlus.from_offsets(data.codes(photos[0])[None], data.latent_avg, space=data.space)
        tokens = adapter.tokens(codes).to(device)
        sizes = base.size_conditions((8 * latents.shape[2], 8 * latents.shape[3]))
        maps = []
        for timestep in _TIMESTEPS:
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep)).to(device)
            alpha = base.alphas_cumprod[timestep].to(device)
            with binding.identity(tokens) as identity:
                base.predict(
                    alpha.sqrt() * latents + (1 - alpha).sqrt() * noise,
                    torch.tensor([timestep], device=device),
                    context=text.context.to(device),
                    pooled=None if text.pooled is None else text.pooled.to(device),
                    size_conditions=None if sizes is None else sizes[None].to(device),
                )
            maps.append(mean_map(identity.maps, (latents.shape[2], latents.shape[3])).cpu())
        scores.append(intersection_over_union(torch.stack(maps).mean(dim=0), mask[:, 0]))
    return _mean(torch.cat(scores))


def _heads(images: Tensor, find_head: HeadFinder) -> list[Tensor | None]:
    return [find_head(image[None]) for image in images]


def _stack(heads: Sequence[Tensor | None], rows: Sequence[int]) -> Tensor:
    return torch.cat([head for row in rows if (head := heads[row]) is not None])


def _diversity(images: Tensor, options: EvaluateOptions) -> float:
    groups = [diversity(group) for group in images.split(options.seeds)]
    return sum(groups) / len(groups) if options.seeds > 1 else float("nan")


def _shown(base: Base, latents: Tensor) -> Tensor:
    """A photo as the VAE shows it, (1, H, W, 3) in [0, 1]."""
    device = next(base.autoencoder.parameters()).device
    return base.decode_latents(latents[None].to(device)).cpu().movedim(1, -1) * 0.5 + 0.5


def _joined(texts: Sequence[TextCondition]) -> TextCondition:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextCondition(torch.cat([text.context for text in texts]), torch.cat(pooled) if pooled else None)


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if len(values) else float("nan")


def _notes(
    options: EvaluateOptions,
    clip: ClipAlignment | None,
    direction: Direction | None,
    gallery: Mapping[int, Tensor],
    people: int,
) -> list[str]:
    notes = []
    if clip is None:
        notes.append("text_alignment: not measured; give the folder of a CLIP model as --evaluate.clip")
    if direction is None:
        notes.append("edit_inside, edit_outside: not measured; give a direction as --evaluate.directions")
    if options.seeds < 2:
        notes.append("diversity: not measured; it needs evaluate.seeds = 2 or more")
    if len(gallery) < people:
        notes.append(f"the recogniser finds a face in the gallery of {len(gallery)} of {people} people")
    return notes
