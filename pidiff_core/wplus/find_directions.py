"""Directions of one's own: from two groups of codes, from the spread of the generator's W, from measured portraits.

Everything is linear in the codes. A step of 1 is one clear change: from the middle of one group to that of the other,
or two standard deviations of what is changed.

Measured directions are disentangled together. If B (D, K) predicts K measured values from w and C (D, D) is the
covariance of w, then V = C B (B^T C B)^-1 are the smallest changes, in units of the spread of w, of which the k-th
moves the k-th value by 1 and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..shapes import check_shape
from .codes import WPlus
from .directions import Direction

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of the mean eigenvalue
_STEP = 2.0  # standard deviations in one step
LEAST_CODES = 3  # of each group
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class FoundDirection:
    """A direction, and how well it was found.

    Args:
        direction: 1 is one clear step.
        quality: of groups, the probability that a code with the property is told from one without (0.5 is chance); of
            measured values, the share of their variance that is predicted (0 is nothing). Both on codes that were left
            out. Of components, their share of the variance of w.
        what: the name of that number, for people.
    """

    direction: Direction
    quality: float
    what: str

    def report(self) -> str:
        """One line."""
        return f"{self.direction.name}: {self.what} {self.quality:.2f}"


def direction_of_groups(having: WPlus, lacking: WPlus, *, name: str) -> FoundDirection:
    """The direction from codes that lack a property to codes that have it.

    A ridge regression of the group, with the ridge that separates left-out codes best; the step leads from the mean of
    the one group to that of the other, as far as it is along the direction.

    Args:
        having, lacking: three or more codes each, of different people; rows that are not present do not count.
        name: of the direction.

    Raises:
        PIDiffError: two spaces, too few codes, or two equal groups.
    """
    having.require_same_space(lacking)
    groups = [wplus.codes[torch.tensor(wplus.present)].flatten(1).double() for wplus in (having, lacking)]
    if min(map(len, groups)) < LEAST_CODES:
        raise PIDiffError(
            f"The groups have {len(groups[0])} and {len(groups[1])} faces; at least {LEAST_CODES} each are needed, and "
            "20 or more of different people are better."
        )
    codes = torch.cat(groups)
    labels = torch.tensor([1.0] * len(groups[0]) + [-1.0] * len(groups[1]), dtype=torch.float64)
    ridge, scores = max(
        ((ridge, _left_out(codes, labels[:, None], ridge)[:, 0]) for ridge in _RIDGES),
        key=lambda found: _auc(found[1], labels),
    )
    weight = _ridge(codes, labels[:, None], ridge)[:, 0]
    apart = groups[0].mean(dim=0) - groups[1].mean(dim=0)
    length = float(weight.square().sum())
    if length < 1e-20 or float(apart.norm()) < 1e-6:
        raise PIDiffError("The two groups have equal codes. Give photos with the property, and photos without it.")
    step = (weight * (float(apart @ weight) / length)).reshape(having.codes.shape[1:]).float()
    quality = _auc(scores, labels)
    return FoundDirection(Direction(name, step, having.space), quality, "separation of left-out photos")


def principal_directions(w: Tensor, *, count: int) -> list[FoundDirection]:
    """The principal components of w (Harkonen et al. 2020), the largest first, as directions (1, D).

    Args:
        w: (N, D), from the generator's mapping network.
        count: how many.

    Raises:
        PIDiffError: fewer than two w, or more components than there can be.
    """
    sizes = check_shape(w, "N D", name="w")
    most = min(sizes["N"] - 1, sizes["D"])
    if not 1 <= count <= most:
        raise PIDiffError(f"{count} components were asked for, but {sizes['N']} samples of w have 1 to {most}.")
    centred = w.double() - w.double().mean(dim=0)
    _, spread, components = torch.linalg.svd(centred, full_matrices=False)
    share = spread.square() / spread.square().sum().clamp_min(1e-12)
    found = []
    for number in range(count):
        component = components[number]
        component = component * torch.sign(component[component.abs().argmax()])  # the same on every machine
        step = _STEP * spread[number] / (sizes["N"] - 1) ** 0.5 * component
        direction = Direction(f"component {number}", step.float()[None])
        found.append(FoundDirection(direction, float(share[number]), "share of the variance"))
    return found


def measured_directions(w: Tensor, measures: Mapping[str, Tensor]) -> list[FoundDirection]:
    """For each measured property, the direction (1, D) that moves it and leaves the other ones.

    Args:
        w: (N, D), from the generator's mapping network.
        measures: name -> (N,), what was measured on the portraits of w; NaN where it could not be. A property that is
            known of less than half of the portraits of another one is left out, because it would leave too few.

    Raises:
        PIDiffError: nothing was measured, or too few portraits.
    """
    sizes = check_shape(w, "N D", name="w")
    counts = {name: int(value.isfinite().sum()) for name, value in measures.items()}
    names = [name for name, count in counts.items() if 2 * count >= max(counts.values())]
    values = torch.stack([measures[name].double() for name in names], dim=1) if names else torch.zeros(len(w), 0)
    known = values.isfinite().all(dim=1)
    rows = int(known.sum())
    if not names or rows < 2 * _FOLDS + len(names):
        raise PIDiffError(
            f"{len(names)} properties were measured on {rows} of {sizes['N']} portraits. More portraits with a face "
            "that the detector finds are needed: raise samples, or choose another detector."
        )
    w, values = w[known].double(), values[known]
    spread = values.std(dim=0)
    names = [name for name, one in zip(names, spread) if one > 1e-9]  # a property that never changes has no direction
    values = (values - values.mean(dim=0))[:, spread > 1e-9] / spread[spread > 1e-9]
    if not names:
        raise PIDiffError("The portraits do not differ in anything that was measured.")

    def predicted(ridge: float) -> Tensor:
        return 1.0 - (_left_out(w, values, ridge) - values).square().mean(dim=0) / values.var(dim=0)

    ridge = max(_RIDGES, key=lambda one: float(predicted(one).mean()))
    centred = w - w.mean(dim=0)
    covariance = centred.T @ centred / (rows - 1)
    weights = _ridge(w, values, ridge)
    moved = covariance @ weights
    steps = _STEP * moved @ torch.linalg.pinv(weights.T @ moved)
    qualities = predicted(ridge).clamp(0.0, 1.0).tolist()
    return [
        FoundDirection(Direction(name, step.float()[None]), quality, "share of its variance that is predicted")
        for name, step, quality in zip(names, steps.T, qualities)
    ]


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(N, D), (N, K) -> (D, K): weights for centred x and y; in the smaller of the two dimensions."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    rows, width = x.shape
    if rows <= width:
        gram = x @ x.T
        return x.T @ torch.linalg.solve(gram + ridge * _mean_eigenvalue(gram) * torch.eye(rows).to(x), y)
    gram = x.T @ x
    return torch.linalg.solve(gram + ridge * _mean_eigenvalue(gram) * torch.eye(width).to(x), x.T @ y)


def _mean_eigenvalue(gram: Tensor) -> float:
    return max(float(gram.trace()) / len(gram), 1e-12)


def _left_out(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(N, K): every row predicted from the other folds."""
    out = torch.zeros_like(y)
    fold = _folds(y)
    for number in range(_FOLDS):
        out_of = fold == number
        if bool(out_of.any()) and not bool(out_of.all()):
            x_in, y_in = x[~out_of], y[~out_of]
            weights = _ridge(x_in, y_in, ridge)
            out[out_of] = (x[out_of] - x_in.mean(dim=0)) @ weights + y_in.mean(dim=0)
    return out


def _folds(y: Tensor) -> Tensor:
    """(N,): each row's fold; in the order of the first value, so that both groups are in every fold."""
    fold = torch.zeros(len(y), dtype=torch.long)
    fold[y[:, 0].argsort(stable=True)] = torch.arange(len(y)) % _FOLDS
    return fold


def _auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a row of the group 1 has a higher score than one of the group -1."""
    higher, lower = scores[labels > 0], scores[labels < 0]
    wins = (higher[:, None] > lower).double() + 0.5 * (higher[:, None] == lower).double()
    return float(wins.mean())
