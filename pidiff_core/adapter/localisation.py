"""Where in the picture an identity acts: the maps of all sites brought together, and people placed by them.

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

    def add(self, map_bhw: Tensor, *, area: Area) -> None:
        """A site's map (B, h, w) of an area of the picture."""
        height, width = self.size
        if self._sum is None or self._count is None:
            self._sum = map_bhw.new_zeros(len(map_bhw), height, width)
            self._count = map_bhw.new_zeros(height, width)
        top, left = round(area[0] * height), round(area[1] * width)
        bottom, right = max(round(area[2] * height), top + 1), max(round(area[3] * width), left + 1)
        size = (bottom - top, right - left)
        self._sum[:, top:bottom, left:right] += F.interpolate(map_bhw[:, None], size, mode="bilinear")[:, 0]
        self._count[top:bottom, left:right] += 1.0

    def mean(self) -> Tensor | None:
        """(B, height, width), or None where no site has been seen."""
        return None if self._sum is None or self._count is None else self._sum / self._count.clamp_min(1.0)


class ColumnShares:
    """Several people side by side without masks: each gets an equal share of what the maps call a face, left to right.

    The mass of the maps above their mean, summed over the rows of the picture, is a distribution over its columns.
    Person r of k owns the columns between its quantiles r/k and (r+1)/k; between two faces there is no mass, so the
    borders fall into the gaps. It starts from equal columns and follows the maps of about the last two evaluations.
    Nothing is read back from the device.

    Args:
        people: k.
        notes: how many maps an evaluation brings: one of each person at each site.
    """

    _COLUMNS = 64
    _KEEP = 0.4  # of the distribution after an evaluation
    _EDGE = 0.04  # width of a border between two people, as a share of the whole mass

    def __init__(self, people: int, *, notes: int) -> None:
        self.people = people
        self._keep = self._KEEP ** (1.0 / notes)
        self._mass: Tensor | None = None

    @property
    def rows(self) -> int:
        """Pictures of a batch whose maps have been noted; 0 before the first one."""
        return 0 if self._mass is None else len(self._mass)

    def note(self, map_bhw: Tensor, *, area: Area) -> None:
        """A map (B, h, w) of an area of the picture, of any of the people."""
        first = round(area[1] * self._COLUMNS)
        last = max(round(area[3] * self._COLUMNS), first + 1)
        above = (map_bhw.float() - map_bhw.float().mean(dim=(1, 2), keepdim=True)).clamp_min(0.0).sum(dim=1)
        columns = F.interpolate(above[:, None], last - first, mode="linear")[:, 0]
        columns = columns / columns.sum(dim=1, keepdim=True).clamp_min(1e-12) * (area[3] - area[1])
        if self._mass is None or self.rows != len(columns):
            self._mass = columns.new_full((len(columns), self._COLUMNS), 1.0 / self._COLUMNS)
        self._mass = torch.cat(
            [
                self._mass[:, :first],
                self._mass[:, first:last] * self._keep + columns * (1.0 - self._keep),
                self._mass[:, last:],
            ],
            dim=1,
        )

    def share(self, person: int, size: tuple[int, int], *, area: Area, like: Tensor) -> Tensor:
        """M (1 or B, N) of one person, 0 to `people` - 1 from the left, for an area of the picture at a site's size."""
        if self._mass is None:
            mass = torch.full((1, self._COLUMNS), 1.0 / self._COLUMNS, device=like.device)
        else:
            mass = self._mass
        mass = mass / mass.sum(dim=1, keepdim=True)
        quantile = mass.cumsum(dim=1) - 0.5 * mass
        first = round(area[1] * self._COLUMNS)
        last = max(round(area[3] * self._COLUMNS), first + 1)
        quantile = F.interpolate(quantile[:, None, first:last], size[1], mode="linear")[:, 0]
        window = quantile.new_ones(quantile.shape)
        if person > 0:
            window = window * ((quantile - person / self.people) / self._EDGE + 0.5).clamp(0.0, 1.0)
        if person < self.people - 1:
            window = window * (((person + 1) / self.people - quantile) / self._EDGE + 0.5).clamp(0.0, 1.0)
        return rearrange(window[:, None].expand(-1, size[0], -1), "b h w -> b (h w)").to(like.dtype)
