"""Where in the picture an identity acts: the maps of all sites brought together, and identities placed by them.

With a null key, the map of a site is 1 - p(null), averaged over the heads (see attention.py); training supervises it.
Adapters without one (W+ Adapter) act everywhere; there the map is the share of the identity in a pixel's attention
output, |A_id| / (|A_text| + |A_id|).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .folding import Attended, FoldedSite, add_attended, localisation_map

Area = Sequence[float]  # top, left, bottom, right in [0, 1]


def site_map(site: FoldedSite, attended: list[Attended], *, text_output: Tensor) -> Tensor:
    """The map (B, N) in [0, 1] of one identity at one site, from what `folding.attend` returned.

    Args:
        site: the folded site, strengths included.
        attended: for the rows of `text_output`.
        text_output: A_text (B, N, C).
    """
    if site.has_null:
        return localisation_map(attended, pixels=text_output.shape[1])
    added = torch.zeros_like(text_output, memory_format=torch.contiguous_format)
    add_attended(added, site, attended=attended)
    identity, text = added.float().norm(dim=-1), text_output.float().norm(dim=-1)
    return identity / (identity + text).clamp_min(1e-12)


class MapAverage:
    """The mean map of one identity over sites, each brought to the size of the picture's latent.

    Sites of a regional prompt see a part of the picture only; each pixel's mean counts the sites that saw it.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._sum: Tensor | None = None
        self._count: Tensor | None = None

    @property
    def rows(self) -> int:
        """Pictures of a batch whose maps have been added; 0 before the first one."""
        return 0 if self._sum is None else len(self._sum)

    def add(self, map_bhw: Tensor, *, area: Area, rows: Sequence[int] | None = None) -> None:
        """A site's map (B, h, w) of an area of the picture.

        Args:
            rows: which pictures of the batch these are; None: all of them, in order.
        """
        height, width = self.size
        where = list(range(len(map_bhw)) if rows is None else rows)
        if self._sum is None or self._count is None:
            self._sum = map_bhw.new_zeros(len(where), height, width)
            self._count = map_bhw.new_zeros(len(where), height, width)
        if missing := max(0, max(where) + 1 - len(self._sum)):
            self._sum, self._count = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (self._sum, self._count))
        top, left = round(area[0] * height), round(area[1] * width)
        bottom, right = max(round(area[2] * height), top + 1), max(round(area[3] * width), left + 1)
        size = (bottom - top, right - left)
        here = F.interpolate(map_bhw[:, None], size, mode="bilinear")[:, 0]
        for row, map_hw in zip(where, here):
            self._sum[row, top:bottom, left:right] += map_hw
            self._count[row, top:bottom, left:right] += 1.0

    def mean(self) -> Tensor | None:
        """(B, height, width), or None if no site has been seen."""
        return None if self._sum is None or self._count is None else self._sum / self._count.clamp_min(1.0)


class ColumnShares:
    """Identities side by side without masks: each gets an equal share of what the maps call a face, left to right.

    The mass of the maps above their mean, summed over the rows of the picture, is a distribution over its columns.
    Identity r of k owns the columns between its quantiles r/k and (r+1)/k; between two faces there is no mass, so the
    borders fall into the gaps. It starts from equal columns and follows the maps of about the last two evaluations.
    Nothing is read back from the device.

    Args:
        people: k.
        maps_per_step: how many maps an evaluation brings: one of each identity at each site.
    """

    _COLUMNS = 64
    _KEEP = 0.4  # of the distribution after an evaluation
    _EDGE = 0.04  # width of a border between two identities, as a share of the whole mass
    _FACE = 1.5  # densest column, in means, from which on the maps show a face
    _GAP = 0.5  # density at a border, in that of the lower of the two peaks beside it, above which a face is there

    def __init__(self, people: int, *, maps_per_step: int) -> None:
        self.people = people
        self._keep = self._KEEP ** (1.0 / maps_per_step)
        self._mass: Tensor | None = None

    @property
    def rows(self) -> int:
        """Pictures of a batch whose maps have been added; 0 before the first one."""
        return 0 if self._mass is None else len(self._mass)

    def add(self, map_bhw: Tensor, *, area: Area, rows: Sequence[int] | None = None) -> None:
        """A map (B, h, w) of an area of the picture, of any of the identities.

        Args:
            rows: which pictures of the batch these are; None: all of them, in order.
        """
        first, last = self._columns(area)
        above = (map_bhw.float() - map_bhw.float().mean(dim=(1, 2), keepdim=True)).clamp_min(0.0).sum(dim=1)
        columns = F.interpolate(above[:, None], last - first, mode="linear")[:, 0]
        columns = columns / columns.sum(dim=1, keepdim=True).clamp_min(1e-12) * (area[3] - area[1])
        needed = len(columns) if rows is None else max(*rows, self.rows - 1) + 1
        if self._mass is None or (rows is None and self.rows != needed):
            self._mass = self._equal(needed, columns)
        elif self.rows < needed:
            self._mass = torch.cat([self._mass, self._equal(needed - self.rows, columns)])
        mass = self._mass if rows is None else self._mass[list(rows)]
        mass = torch.cat(
            [
                mass[:, :first],
                mass[:, first:last] * self._keep + columns * (1.0 - self._keep),
                mass[:, last:],
            ],
            dim=1,
        )
        if rows is None:
            self._mass = mass
        else:
            self._mass = self._mass.index_copy(0, torch.tensor(rows, device=mass.device), mass)

    def share(
        self, person: int, size: tuple[int, int], *, area: Area, like: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """M (1 or B, N) of one identity for an area of the picture, at a site's size.

        Args:
            person: which of the identities, 0 to `people` - 1 from the left.
            rows: which pictures of the batch are asked for; None: all of them, in order.
        """
        if self._mass is None:
            mass = self._equal(1, like.float())
        elif rows is None:
            mass = self._mass
        elif max(rows) < self.rows:
            mass = self._mass[list(rows)]
        else:  # a context window whose pictures have not been seen yet
            mass = torch.cat([self._mass, self._equal(max(rows) + 1 - self.rows, self._mass)])[list(rows)]
        mass = mass / mass.sum(dim=1, keepdim=True)
        quantile = mass.cumsum(dim=1) - 0.5 * mass
        first, last = self._columns(area)
        quantile = F.interpolate(quantile[:, None, first:last], size[1], mode="linear")[:, 0]
        window = quantile.new_ones(quantile.shape)
        if person > 0:
            window = window * ((quantile - person / self.people) / self._EDGE + 0.5).clamp(0.0, 1.0)
        if person < self.people - 1:
            window = window * (((person + 1) / self.people - quantile) / self._EDGE + 0.5).clamp(0.0, 1.0)
        return rearrange(window[:, None].expand(-1, size[0], -1), "b h w -> b (h w)").to(like.dtype)

    def split_rows(self) -> list[int]:
        """Pictures with a border between two identities inside a face: they have fewer faces in a row than people.

        Empty if the maps show no face. It waits for the device: for after a run.
        """
        if self._mass is None:
            return []
        found = []
        for row, mass in enumerate((self._mass / self._mass.sum(dim=1, keepdim=True)).cpu()):
            borders = [int((mass.cumsum(dim=0) < rank / self.people).sum()) for rank in range(1, self.people)]
            if mass.max() > self._FACE * mass.mean() and any(
                mass[max(border - 1, 0) : border + 2].min()
                > self._GAP * torch.minimum(mass[: border + 1].max(), mass[border:].max())
                for border in borders
            ):
                found.append(row)
        return found

    def _columns(self, area: Area) -> tuple[int, int]:
        """First and last column of an area."""
        first = round(area[1] * self._COLUMNS)
        return first, max(round(area[3] * self._COLUMNS), first + 1)

    def _equal(self, rows: int, like: Tensor) -> Tensor:
        return like.new_full((rows, self._COLUMNS), 1.0 / self._COLUMNS)
