"""One identity from several photos: joined, averaged, interpolated, and which photo is unlike the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PIDiffError
from .codes import WPlus

_OUTLIER_RATIO = 1.5  # times the usual distance from the others


@dataclass(frozen=True, eq=False)
class Outliers:
    """How far each code of a batch is from the mean of the others."""

    distances: Tensor  # (B,): root mean square difference to the mean of the others; NaN for a photo without a face
    indices: tuple[int, ...]  # those that are unusually far; never with fewer than three codes

    def report(self) -> str:
        """One line for each photo."""
        lines = []
        for index, distance in enumerate(self.distances.tolist()):
            mark = "  <- unlike the others" if index in self.indices else ""
            lines.append(f"photo {index}: " + ("no face" if math.isnan(distance) else f"distance {distance:.3f}{mark}"))
        return "\n".join(lines)


def join_codes(parts: Sequence[WPlus]) -> WPlus:
    """The identities of several batches of one space in one batch, in this order."""
    if not parts:
        raise PIDiffError("There are no codes to join.")
    first = parts[0]
    for part in parts[1:]:
        first.require_same_space(part)
    return _made_of(
        parts,
        torch.cat([part.codes for part in parts]),
        source=", ".join(dict.fromkeys(part.source for part in parts if part.source)),
        present=[row for part in parts for row in part.present],
    )


def mean_code(wplus: WPlus, *, weights: Sequence[float] | None = None) -> WPlus:
    """The (weighted) mean of a batch, as one identity; photos without a face (see `WPlus.present`) do not count.

    Raises:
        PIDiffError: another number of weights than codes, negative ones, or none above zero.
    """
    if weights is None:
        weights = [1.0] * len(wplus)
    if len(weights) != len(wplus):
        raise PIDiffError(f"{len(weights)} weights were given for {len(wplus)} codes. Give one weight for each.")
    share = torch.tensor([float(weight) for weight in weights])
    if not share.isfinite().all() or (share < 0).any() or share.sum() <= 0:
        raise PIDiffError(f"The weights {list(weights)} should be zero or more, and not all zero.")
    faces = share * torch.tensor(wplus.present)
    found = bool(faces.any())
    share = faces if found else share
    share = share / share.sum()
    mean = torch.einsum("b,bsd->sd", share, wplus.codes)[None]
    return _made_of(
        [wplus],
        mean,
        source=f"mean of {int((share > 0).sum())} ({wplus.source})",
        present=[found],
        weights=[round(value, 6) for value in share.tolist()],
    )


def mean_of_groups(wplus: WPlus, photos: int) -> WPlus:
    """One identity from each run of `photos` codes; photos without a face (see `WPlus.present`) do not count.

    Raises:
        PIDiffError: the batch is not a whole number of runs.
    """
    if photos < 1 or len(wplus) % photos:
        raise PIDiffError(
            f"{len(wplus)} codes cannot be split into groups of {photos} photos per person. Give the same number of "
            "photos of each person, one person after another, or average each person with PIDiff Average."
        )
    if photos == 1:
        return wplus
    share = torch.tensor(wplus.present, dtype=torch.float32).reshape(-1, photos)
    present = share.any(dim=1)
    share = torch.where(present[:, None], share, 1.0)
    codes = wplus.codes.unflatten(0, (-1, photos))
    means = torch.einsum("ip,ipsd->isd", share / share.sum(dim=1, keepdim=True), codes)
    source = f"{len(means)} of {photos} photos each ({wplus.source})"
    return _made_of([wplus], means, source=source, present=present.tolist())


def find_outliers(wplus: WPlus) -> Outliers:
    """Which codes of a batch are unlike the others: farther from their mean than half as much again as is usual."""
    faces = torch.tensor(wplus.present).nonzero().flatten()
    count, codes = len(faces), wplus.codes[faces]
    distances = torch.full((len(wplus),), torch.nan)
    others = (codes.sum(dim=0, keepdim=True) - codes) / (count - 1) if count > 1 else codes
    distances[faces] = (codes - others).square().mean(dim=(1, 2)).sqrt()
    if count < 3:
        return Outliers(distances, ())
    far = distances > _OUTLIER_RATIO * distances[faces].median()
    return Outliers(distances, tuple(int(index) for index in far.nonzero().flatten()))


def interpolate(first: WPlus, second: WPlus, *, steps: int) -> WPlus:
    """Codes between two identities in `steps` equal steps, both ends included."""
    first.require_same_space(second)
    if len(first) != 1 or len(second) != 1:
        raise PIDiffError(
            f"Interpolation goes from one person to one other, but {len(first)} and {len(second)} were given."
        )
    if steps < 2:
        raise PIDiffError(f"Interpolation needs at least 2 steps, the two people themselves, but {steps} were given.")
    shares = torch.linspace(0.0, 1.0, steps)[:, None, None]
    codes = torch.lerp(first.codes.expand(steps, -1, -1), second.codes.expand(steps, -1, -1), shares)
    return _made_of([first, second], codes, source=f"from {first.source} to {second.source}")


def _made_of(
    parts: Sequence[WPlus], codes: Tensor, *, source: str, present: Sequence[bool] = (), **facts: Any
) -> WPlus:
    """Codes (B, S, D) computed from those of `parts`: the first part's record, with the photos of all of them."""
    first = parts[0]
    if len(parts) > 1 and any(part.refinement is not None for part in parts):
        raise PIDiffError(
            "Tuned codes cannot be combined with others: each has its own change of the adapter. Give each of them an "
            "Apply Identity Adapter node of its own."
        )
    photos = [photo for part in parts for photo in part.photos]
    return dataclasses.replace(
        first,
        codes=codes,
        latent_avg=next((part.latent_avg for part in parts if part.average_known), first.latent_avg),
        average_known=any(part.average_known for part in parts),
        source=source,
        origin={**first.origin, **({"photos": photos} if photos else {}), **facts},
        present=tuple(present),
    )
