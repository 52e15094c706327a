"""The W+ encoder of e4e, from top to bottom: a residual body, a pyramid of three maps, one head for each style.

Omer Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", SIGGRAPH 2021 (arXiv 2102.02766). The units of
the body are ArcFace's improved residual units (Deng et al., arXiv 1801.07698) with squeeze-and-excitation (Hu et al.,
arXiv 1709.01507). Modules are nested as in the published checkpoint, whose keys are positions in `nn.Sequential`.
"""

from __future__ import annotations

import math
from itertools import accumulate, islice

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..shapes import check_shape
from .config import EncoderConfig


class E4eEncoder(nn.Module):
    """Aligned faces -> offsets of W+ codes from the generator's average code (the average is not added here).

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
        stem, pyramid = config.stem_channels, config.depths[3]
        self.input_layer = nn.Sequential(Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        units: list[nn.Module] = []
        channels = stem
        for count, depth in zip(config.units, config.depths):
            for index in range(count):
                stride = 2 if index == 0 else 1
                units.append(IRSEUnit(channels, depth, stride=stride, se_reduction=config.se_reduction))
                channels = depth
        self.body = nn.Sequential(*units)
        self.latlayer1 = Conv2d(config.depths[2], pyramid, 1)
        self.latlayer2 = Conv2d(config.depths[1], pyramid, 1)
        map_sizes = [config.image_size // halvings for halvings in (16, 8, 4)]  # coarse, medium, fine
        self.styles = nn.ModuleList(
            StyleHead(pyramid, channels=config.head_channels, width=config.width, map_size=map_size)
            for map_size, count in zip(map_sizes, config.heads)
            for _ in range(count)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Crops (B, 3, H, H) in [-1, 1] -> offsets (B, S, D): the first, plus every other's difference to it."""
        check_shape(images, f"B 3 {self.config.image_size} {self.config.image_size}", name="the encoder's crop")
        heads = iter(self.styles)
        first, *differences = (
            head(level)
            for level, count in zip(self._pyramid(images), self.config.heads)
            for head in islice(heads, count)
        )
        return torch.stack([first, *(first + difference for difference in differences)], dim=1)

    def _pyramid(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coarse, medium and fine map: (B, C, H / 16, H / 16), (B, C, H / 8, H / 8), (B, C, H / 4, H / 4)."""
        # Channels last is the faster layout for the large maps of the body, but not for the heads: their maps are small
        # and their weights large, and a convolution of channels-last maps first rearranges its weights.
        x = self.input_layer(images.contiguous(memory_format=torch.channels_last))
        ends_of_groups = {end - 1 for end in accumulate(self.config.units)}
        maps = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in ends_of_groups:
                maps.append(x)
        _, fine, medium, coarse = maps
        medium = upsample_like(coarse, medium) + self.latlayer1(medium)
        fine = upsample_like(medium, fine) + self.latlayer2(fine)
        return coarse.contiguous(), medium.contiguous(), fine.contiguous()


class Conv2d(nn.Conv2d):
    """A convolution that draws no initial weights on the meta device, where they take a third of the building time."""

    def reset_parameters(self) -> None:
        """torch's own, if there is memory to fill."""
        if not self.weight.is_meta:
            super().reset_parameters()


class IRSEUnit(nn.Module):
    """Improved residual unit with squeeze-and-excitation; stride 2 halves the map."""

    def __init__(self, in_channels: int, depth: int, *, stride: int, se_reduction: int) -> None:
        super().__init__()
        if in_channels == depth:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                Conv2d(in_channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            Conv2d(in_channels, depth, 3, 1, 1, bias=False),
            nn.PReLU(depth),
            Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
            SqueezeExcite(depth, se_reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, depth, H / stride, W / stride)."""
        return self.shortcut_layer(x) + self.res_layer(x)


class SqueezeExcite(nn.Module):
    """Scale each channel by a factor in (0, 1) that depends on the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(means))))


class StyleHead(nn.Module):
    """One style from one map: convolutions of stride 2 down to a single pixel, then a linear layer."""

    def __init__(self, in_channels: int, *, channels: int, width: int, map_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(int(math.log2(map_size))):
            layers.append(Conv2d(in_channels if index == 0 else channels, channels, 3, 2, 1))
            layers.append(nn.LeakyReLU(0.01))
        self.convs = nn.Sequential(*layers)
        self.linear = HeadLinear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, map_size, map_size) -> (B, D)."""
        return self.linear(rearrange(self.convs(features), "b c 1 1 -> b c"))


class HeadLinear(nn.Module):
    """Linear layer whose weights have unit variance and are scaled by 1 / sqrt(inputs) when used."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        if not self.weight.is_meta:  # there, torch would import its symbolic mathematics for this: a second
            nn.init.normal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = 1.0 / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)."""
        return F.linear(x, self.weight * self.scale, self.bias)


def upsample_like(coarser: Tensor, finer: Tensor) -> Tensor:
    """Bilinear, corners aligned, to the size of `finer`."""
    return F.interpolate(coarser, size=finer.shape[-2:], mode="bilinear", align_corners=True)
