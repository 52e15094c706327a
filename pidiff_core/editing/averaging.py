"""One person from several photos: joined, averaged, blended, and a word about the photo that does not belong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..wplus import WPlus

_OUTLIER_RATIO = 1.5  # times the usual distance from the others


@dataclass(frozen=True, eq=False)
class Outliers:
    """How far each code of a batch is from the mean of the others."""

    distances: Tensor  # (B,): root mean square difference to the mean of the others; NaN where there is no face
    indices: tuple[int, ...]  # those that are unusually far; never with fewer than three codes

    def report(self) -> str:
        """For people: one line a photo."""
        lines = []
        for index, distance in enumerate(self.distances.tolist()):
            mark = "  <- unlike the others" if index in self.indices else ""
            lines.append(f"photo {index}: " + ("no face" if math.isnan(distance) else f"distance {distance:.3f}{mark}"))
        return "\n".join(lines)


def join_codes(parts: Sequence[WPlus]) -> WPlus:
    """The people of several batches of one space in one batch, in this order."""
    if not parts:
        raise PIDiffError("There are no codes to join.")
    first = parts[0]
    for part in parts[1:]:
        first.require_same_space(part)
    joined = first.with_codes(
        torch.cat([part.codes for part in parts]),
        source=", ".join(dict.fromkeys(part.source for part in parts if part.source)),
    )
    return dataclasses.replace(
        joined, origin=_origin_of(parts, present=[row for part in parts for row in part.present])
    )


def _origin_of(parts: Sequence[WPlus], *, present: Sequence[bool]) -> dict[str, Any]:
    """The first part's origin, with the photos of all of them; `present` as in `WPlus.present`."""
    origin = {name: value for name, value in parts[0].origin.items() if name not in ("photos", "present")}
    if photos := [photo for part in parts for photo in part.origin.get("photos", ())]:
        origin["photos"] = photos
    if not all(present):
        origin["present"] = list(present)
    return origin


def mean_code(wplus: WPlus, *, weights: Sequence[float] | None = None) -> WPlus:
    """The (weighted) mean of a batch, as one person; photos without a face (see `WPlus.present`) do not count.

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
    averaged = wplus.with_codes(mean, source=f"mean of {int((share > 0).sum())} ({wplus.source})")
    origin = _origin_of([wplus], present=[found]) | {"weights": [round(value, 6) for value in share.tolist()]}
    return dataclasses.replace(averaged, origin=origin)


def mean_of_groups(wplus: WPlus, photos: int) -> WPlus:
    """One person from each run of `photos` codes; photos without a face (see `WPlus.present`) do not count.

    Raises:
        PIDiffError: the batch is no whole number of runs.
    """
    if photos < 1 or len(wplus) % photos:
        raise PIDiffError(
            f"{len(wplus)} codes do not make people of {photos} photos each. Give a batch of photos in which each "
            "person's stand together, the same number of each, or average them with PIDiffMeanCodes."
        )
    if photos == 1:
        return wplus
    share = torch.tensor(wplus.present, dtype=torch.float32).reshape(-1, photos)
    present = share.any(dim=1)
    share = torch.where(present[:, None], share, 1.0)
    codes = wplus.codes.unflatten(0, (-1, photos))
    means = torch.einsum("ip,ipsd->isd", share / share.sum(dim=1, keepdim=True), codes)
    averaged = wplus.with_codes(means, source=f"{len(means)} of {photos} photos each ({wplus.source})")
    return dataclasses.replace(averaged, origin={**wplus.origin, "present": present.tolist()})


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
    """A batch that walks from one person to another in `steps` equal steps, both ends included."""
    first.require_same_space(second)
    if len(first) != 1 or len(second) != 1:
        raise PIDiffError(f"A walk leads from one person to one other, but {len(first)} and {len(second)} were given.")
    if steps < 2:
        raise PIDiffError(f"A walk needs at least 2 steps, the two people themselves, but {steps} were asked for.")
    shares = torch.linspace(0.0, 1.0, steps)[:, None, None]
    walk = torch.lerp(first.codes.expand(steps, -1, -1), second.codes.expand(steps, -1, -1), shares)
    on_the_way = first.with_codes(walk, source=f"from {first.source} to {second.source}")
    return dataclasses.replace(on_the_way, origin=_origin_of([first, second], present=()))
