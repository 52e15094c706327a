"""One identity on a model: what its sites add, where in the picture, and at which noise levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pidiff_core.adapter.folding import FoldedSite

COND, UNCOND = 0, 1  # the host's numbers of the two halves
Area = tuple[float, float, float, float]  # top, left, bottom, right in [0, 1]
_LEVELS = 4  # resolutions of a Stable Diffusion UNet, at most


class Identity:
    """One Apply: folded sites, mask and range. Its only changes are caches, which hold what can be made again.

    Args:
        sites: what the conditional half gets, by site name.
        uncond_sites: what the unconditional half gets; mostly nothing.
        mask: M (K, H, W) in [0, 1], picture i of a batch has mask i modulo K; None for 1 everywhere.
        sigma_start, sigma_end: the noise levels between which the identity acts, the first one the higher.
        always: whether it acts at every noise level.
        order: how many Apply nodes came before this one's.
        beside: whether it stands in a row, left to right, with the others that do.
    """

    def __init__(
        self,
        *,
        sites: Mapping[str, FoldedSite],
        uncond_sites: Mapping[str, FoldedSite],
        mask: Tensor | None,
        sigma_start: float,
        sigma_end: float,
        always: bool,
        order: int = 0,
        beside: bool = False,
    ) -> None:
        self.order, self.beside = order, beside
        self._halves = {COND: dict(sites), UNCOND: dict(uncond_sites)}
        self._mask = mask
        self.always = always
        self.attends_from_text = any(site.query == "text" for half in self._halves.values() for site in half.values())
        self._range = (sigma_end, sigma_start)
        #: What code compiled for this identity depends on, apart from the values in its tensors.
        self.structure = (
            tuple((half, name, site.shapes) for half, here in self._halves.items() for name, site in here.items()),
            None if mask is None else len(mask),
            order,
            beside,
        )
        self._placed: dict[tuple[Any, ...], FoldedSite] = {}
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def __deepcopy__(self, _: Any) -> Identity:
        return self  # clones of a model share it: some hosts deep-copy their options

    @property
    def has_mask(self) -> bool:
        """Whether a mask of the user's says where it may act."""
        return self._mask is not None

    def acts_at(self, noise_level: float | None) -> bool:
        """Whether an evaluation at this noise level is inside the range."""
        low, high = self._range
        return self.always or noise_level is None or low <= noise_level <= high

    def prepare(self, x: Tensor, *, rows: int, dtype: torch.dtype, areas: Sequence[Area]) -> None:
        """Make what the hooks of an evaluation will look up, unless it is there.

        Before the UNet runs, not in it: what a compiled graph makes and leaves behind is made again by the next graph,
        for it expects it to be there, and in a CUDA graph lies in memory that the graph's next run writes over.

        Args:
            x: the latents (B, C, H, W) of the evaluation.
            rows: how many of them belong to each conditioning.
            dtype: what the UNet computes in.
            areas: the parts of the picture that they are computed on.
        """
        like = torch.empty(0, device=x.device, dtype=dtype)
        with torch.inference_mode(False), torch.no_grad():  # see patching._folded
            for half, sites in self._halves.items():
                for name in sites:
                    self.site(name, half, like=like)
            size = (int(x.shape[-2]), int(x.shape[-1]))
            for _ in range(_LEVELS if self.has_mask else 0):
                for area in areas:
                    self.mask(rows, size, area=area, like=like)
                size = (-(-size[0] // 2), -(-size[1] // 2))  # convolutions of stride 2 round up

    def site(self, name: str, half: int, *, like: Tensor) -> FoldedSite | None:
        """The folded site on the device and in the type of `like`; None where nothing is added."""
        folded = self._halves[half].get(name)
        if folded is None:
            return None
        key = (name, half, like.device, like.dtype)
        if key not in self._placed:
            self._placed[key] = folded.to(like.device, like.dtype)
        return self._placed[key]

    def mask(self, rows: int, size: tuple[int, int], *, area: Area, like: Tensor) -> Tensor | None:
        """The mask (1 or rows, N) of an area of the picture at a site's resolution; resized once per size."""
        if self._mask is None:
            return None
        key = (rows, size, area, like.device, like.dtype)
        if key not in self._masks:
            self._masks[key] = _resized(self._mask, size, area=area, rows=rows).to(like.device, like.dtype)
        return self._masks[key]


def _resized(mask_khw: Tensor, size: tuple[int, int], *, area: Area, rows: int) -> Tensor:
    """(K, H, W) -> (1 or rows, N)."""
    height, width = mask_khw.shape[1:]
    top, left, bottom, right = area
    y, x = math.floor(top * height), math.floor(left * width)
    part = mask_khw[:, None, y : max(math.ceil(bottom * height), y + 1), x : max(math.ceil(right * width), x + 1)]
    small = F.interpolate(part, size, mode="bilinear", antialias=True)[:, 0].clamp(0.0, 1.0)
    if len(small) > 1:
        small = small[torch.arange(rows) % len(small)]
    return small.flatten(1)
