"""The encoder: IR-SE body, feature pyramid, one head a style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate, islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import check_shape
from . import inference
from .config import EncoderConfig
from .layers import IRSEUnit, StyleHead
from .workspace import Workspace


class E4eEncoder(nn.Module):
    """Aligned faces -> offsets of W+ codes from the generator's average (the average is not added here).

    Args:
        config: the sizes.

    Example:
        >>> encoder = E4eEncoder(PRESETS["mini-64"]).eval()
        >>> encoder(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10, 128])
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self._workspace = Workspace()
        stem, pyramid = config.stem_channels, config.depths[3]
        self.input_layer = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        units: list[nn.Module] = []
        channels = stem
        for count, depth in zip(config.units, config.depths):
            for index in range(count):
                stride = 2 if index == 0 else 1
                units.append(IRSEUnit(channels, depth, stride=stride, se_reduction=config.se_reduction))
                channels = depth
        self.body = nn.Sequential(*units)
        self.latlayer1 = nn.Conv2d(config.depths[2], pyramid, 1)
        self.latlayer2 = nn.Conv2d(config.depths[1], pyramid, 1)
        map_sizes = [config.image_size // halvings for halvings in (16, 8, 4)]  # coarse, medium, fine
        self.styles = nn.ModuleList(
            StyleHead(pyramid, channels=config.head_channels, width=config.width, map_size=map_size)
            for map_size, count in zip(map_sizes, config.heads)
            for _ in range(count)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Crops (B, 3, H, H) in [-1, 1] -> offsets (B, S, D): the first, plus every other's difference to it."""
        check_shape(images, f"B 3 {self.config.image_size} {self.config.image_size}", name="the encoder's crop")
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.plain(images)
        return self._offsets(
            inference.stem(self.input_layer, images),
            unit=partial(inference.unit, workspace=self._workspace),
            heads=partial(inference.heads, workspace=self._workspace),
        )

    def plain(self, images: Tensor) -> Tensor:
        """`forward` module by module, as the checkpoint nests them: for training, and as inference's twin."""
        return self._offsets(
            self.input_layer(images),
            unit=lambda layer, x: layer(x),
            heads=lambda layers, features: [layer(features) for layer in layers],
        )

    def _offsets(
        self,
        x: Tensor,
        *,
        unit: Callable[[IRSEUnit, Tensor], Tensor],
        heads: Callable[[list[StyleHead], Tensor], list[Tensor]],
    ) -> Tensor:
        ends = [end - 1 for end in accumulate(self.config.units)]  # last unit of each group
        taps = []
        for index, layer in enumerate(self.body):
            x = unit(cast(IRSEUnit, layer), x)
            if index in ends[1:]:
                taps.append(x)
        fine, medium, coarse = taps
        medium = upsample_like(coarse, medium) + self.latlayer1(medium)
        fine = upsample_like(medium, fine) + self.latlayer2(fine)
        remaining = (cast(StyleHead, layer) for layer in self.styles)
        first, *others = (
            style
            for level, count in zip((coarse, medium, fine), self.config.heads)
            for style in heads(list(islice(remaining, count)), level)
        )
        return torch.stack([first, *(first + other for other in others)], dim=1)


def upsample_like(coarser: Tensor, finer: Tensor) -> Tensor:
    """Bilinear, corners aligned, to the size of `finer`."""
    return F.interpolate(coarser, size=finer.shape[-2:], mode="bilinear", align_corners=True)
