"""What a recogniser's vectors say about a group of people: are they told apart, and is each one found again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PIDiffError

Vectors = Sequence[Tensor | None]  # (V,) each; None for a picture without a face


@dataclass(frozen=True)
class Telling:
    """How well a recogniser tells people apart on given pictures of them.

    Args:
        faces_found: share of the pictures in which it finds a face.
        auc: probability that a pair of pictures of one person is nearer than a pair of two people; 0.5 is chance.
        same, different: median distance of such pairs.
    """

    faces_found: float
    auc: float
    same: float
    different: float


def tell_apart(vectors: Vectors, people: Sequence[object]) -> Telling:
    """Compare every pair of pictures.

    Args:
        vectors: one for each picture.
        people: who is on it.

    Raises:
        PIDiffError: no pair of one person, or none of two, among the pictures with a face.
    """
    seen = [(vector, person) for vector, person in zip(vectors, people, strict=True) if vector is not None]
    if len(seen) < 2:
        raise PIDiffError(f"The recogniser finds a face in {len(seen)} of {len(people)} pictures; it needs at least 2.")
    distances = torch.cdist(*[torch.stack([vector for vector, _ in seen])] * 2)
    first, second = torch.triu_indices(len(seen), len(seen), offset=1)
    is_same = torch.tensor([seen[i][1] == seen[j][1] for i, j in zip(first, second)])
    same, different = distances[first, second][is_same], distances[first, second][~is_same]
    if not len(same) or not len(different):
        raise PIDiffError("Telling people apart needs two pictures of one person and one of another, with faces.")
    nearer = (same[:, None] < different).float() + 0.5 * (same[:, None] == different).float()
    return Telling(len(seen) / len(people), float(nearer.mean()), float(same.median()), float(different.median()))


def gallery_of(vectors: Vectors, people: Sequence[int]) -> dict[int, Tensor]:
    """Person -> mean vector of their pictures with a face; people without any are left out."""
    by_person: dict[int, list[Tensor]] = {}
    for vector, person in zip(vectors, people, strict=True):
        if vector is not None:
            by_person.setdefault(person, []).append(vector)
    return {person: torch.stack(rows).mean(dim=0) for person, rows in by_person.items()}


def retrieval(vectors: Vectors, people: Sequence[int], *, gallery: dict[int, Tensor]) -> float:
    """Share of the pictures whose nearest person of the gallery is the right one; a picture without a face is wrong."""
    return sum(_nearest(vector, gallery) == person for vector, person in zip(vectors, people, strict=True)) / max(
        1, len(people)
    )


def similarity(vectors: Vectors, people: Sequence[int], *, gallery: dict[int, Tensor]) -> float:
    """Mean of 1 - distance to the person's mean vector, over the pictures with a face; NaN if there is none."""
    near = [
        1.0 - float((vector - gallery[person]).norm())
        for vector, person in zip(vectors, people, strict=True)
        if vector is not None and person in gallery
    ]
    return sum(near) / len(near) if near else float("nan")


def faces_found(vectors: Vectors) -> float:
    """Share of the pictures in which the recogniser finds a face."""
    return sum(vector is not None for vector in vectors) / max(1, len(vectors))


def _nearest(vector: Tensor | None, gallery: dict[int, Tensor]) -> int | None:
    if vector is None or not gallery:
        return None
    return min(gallery, key=lambda person: float((vector - gallery[person]).norm()))
