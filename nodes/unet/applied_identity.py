"""One identity on a model: what it adds at each site, where in the picture, and during which part of the sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pidiff_core.adapter.folding import FoldedSite

COND, UNCOND = 0, 1  # the host's numbers of the two halves of guidance
Area = tuple[float, float, float, float]  # top, left, bottom, right in [0, 1]
_LEVELS = 4  # resolutions of a Stable Diffusion UNet, at most


class AppliedIdentity:
    """What one Apply node adds to a model: folded sites, mask and range.

    It never changes but for two caches: folded sites on the device in use, and masks at the sizes in use. So clones of
    a model share it.

    Args:
        sites: for the conditional half, by site name.
        uncond_sites: for the unconditional half; empty for most adapters.
        mask: M (K, H, W) in [0, 1], picture i of a batch has mask i modulo K; None for 1 everywhere.
        start_percent, end_percent: the part of the sampling in which the identity acts.
        skip_steps: step i of n gets nothing while i <= skip_steps * n; 0 = no such rule.
        sigma_range: the same as noise levels, lower one first, by the schedule that the model had when the identity
            was applied. Only for a UNet that is called without ComfyUI's sampler, which brings the schedule in use.
        order: how many Apply nodes came before this one's.
        in_row: whether it shares the faces of the picture, left to right, with the others that do.
    """

    def __init__(
        self,
        *,
        sites: Mapping[str, FoldedSite],
        uncond_sites: Mapping[str, FoldedSite],
        mask: Tensor | None,
        start_percent: float,
        end_percent: float,
        sigma_range: tuple[float, float],
        skip_steps: float = 0.0,
        order: int = 0,
        in_row: bool = False,
    ) -> None:
        self.order, self.in_row = order, in_row
        self.start_percent, self.end_percent = start_percent, end_percent
        self.sigma_range, self.skip_steps = sigma_range, skip_steps
        self._halves = {COND: dict(sites), UNCOND: dict(uncond_sites)}
        self._mask = mask
        folded = [site for half in self._halves.values() for site in half.values()]
        self.attends_from_text = any(site.query == "text" for site in folded)
        #: Number of sites of the conditional half.
        self.num_sites = len(sites)
        #: Whether it matters which picture of the batch, or which part of a picture, is computed.
        self.differs_by_picture = mask is not None or in_row or any(len(site) > 1 for site in folded)
        #: What code compiled for this identity depends on, apart from the values in its tensors.
        self.compile_key = (
            tuple((half, name, site.shapes) for half, here in self._halves.items() for name, site in here.items()),
            None if mask is None else len(mask),
            order,
            in_row,
        )
        self._on_device: dict[tuple[Any, ...], FoldedSite] = {}
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def __deepcopy__(self, _: Any) -> AppliedIdentity:
        return self  # some hosts deep-copy the options of a model with every clone

    @property
    def has_mask(self) -> bool:
        """Whether a user's mask limits its area."""
        return self._mask is not None

    @property
    def is_always_on(self) -> bool:
        """Whether it acts at every noise level."""
        return self.start_percent <= 0 and self.end_percent >= 1 and self.skip_steps <= 0

    def prepare(
        self,
        x: Tensor,
        *,
        rows: int,
        dtype: torch.dtype,
        areas: Sequence[Area],
        pictures: tuple[int, ...] | None = None,
    ) -> None:
        """Fill the caches that the hooks of an evaluation read.

        It runs before the UNet, not in it: a tensor that a compiled graph makes and leaves in a cache would be missing
        for the next graph, and in a CUDA graph its memory is written over by the next run.

        Args:
            x: the latents (B, C, H, W) of the evaluation.
            rows: how many of them belong to each conditioning.
            dtype: data type in which the UNet computes.
            areas: the parts of the picture that they are computed on.
            pictures: see `mask`.
        """
        like = torch.empty(0, device=x.device, dtype=dtype)
        with torch.inference_mode(False), torch.no_grad():  # see folding.fold_identities
            for half, sites in self._halves.items():
                for name in sites:
                    self.site(name, half, like=like)
            size = (int(x.shape[-2]), int(x.shape[-1]))
            for _ in range(_LEVELS if self.has_mask else 0):
                for area in areas:
                    self.mask(rows, size, area=area, like=like, pictures=pictures)
                size = (-(-size[0] // 2), -(-size[1] // 2))  # convolutions of stride 2 round up

    def site(self, name: str, half: int | None, *, like: Tensor) -> FoldedSite | None:
        """The folded site on the device and in the type of `like`; None if this half of guidance gets nothing there."""
        folded = None if half is None else self._halves[half].get(name)
        if folded is None:
            return None
        key = (name, half, like.device, like.dtype)
        if key not in self._on_device:
            self._on_device[key] = folded.to(like.device, like.dtype)
        return self._on_device[key]

    def mask(
        self,
        rows: int,
        size: tuple[int, int],
        *,
        area: Area,
        like: Tensor,
        pictures: tuple[int, ...] | None = None,
    ) -> Tensor | None:
        """The mask (1 or rows, N) of an area of the picture at a site's size; None without one.

        Args:
            rows: how many rows of the batch it is for.
            size: height and width of the site's feature map.
            area: the part of the picture that the feature map shows.
            like: tells device and data type.
            pictures: which picture of the batch each row is; None: row i is picture i.
        """
        if self._mask is None:
            return None
        key = (rows, size, area, pictures, like.device, like.dtype)
        if key not in self._masks:
            small = _resized(self._mask, size, area=area)
            if len(small) > 1:
                small = small[torch.tensor(range(rows) if pictures is None else pictures) % len(small)]
            self._masks[key] = small.to(like.device, like.dtype)
        return self._masks[key]


def _resized(mask_khw: Tensor, size: tuple[int, int], *, area: Area) -> Tensor:
    """(K, H, W) -> (K, N)."""
    height, width = mask_khw.shape[1:]
    top, left, bottom, right = area
    y, x = math.floor(top * height), math.floor(left * width)
    part = mask_khw[:, None, y : max(math.ceil(bottom * height), y + 1), x : max(math.ceil(right * width), x + 1)]
    return F.interpolate(part, size, mode="bilinear", antialias=True)[:, 0].clamp(0.0, 1.0).flatten(1)
