"""IR-SE units (Deng et al., "ArcFace", with Hu et al.'s squeeze-and-excitation) and the style heads of e4e.

The nesting of the modules follows the published checkpoint, whose keys are positions in `nn.Sequential`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..initial import normal

HEAD_LEAK = 0.01  # slope of the leaky ReLU in the style heads


class SqueezeExcite(nn.Module):
    """Scale every channel by what the whole picture says about it."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True))

    def gate(self, means: Tensor) -> Tensor:
        """Means of the channels (B, C, 1, 1) -> their factors in (0, 1), same shape."""
        return torch.sigmoid(self.fc2(F.relu(self.fc1(means))))


class IRSEUnit(nn.Module):
    """Improved residual unit with squeeze-and-excitation; stride 2 halves the picture."""

    def __init__(self, in_channels: int, depth: int, *, stride: int, se_reduction: int) -> None:
        super().__init__()
        if in_channels == depth:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, depth, 3, 1, 1, bias=False),
            nn.PReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
            SqueezeExcite(depth, se_reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, depth, H / stride, W / stride)."""
        return self.shortcut_layer(x) + self.res_layer(x)


class HeadLinear(nn.Module):
    """Linear layer whose weights have unit variance and are scaled by 1 / sqrt(inputs) when used."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = 1.0 / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)."""
        return F.linear(x, self.weight * self.scale, self.bias)


class StyleHead(nn.Module):
    """One style from one map: stride-2 convolutions down to a single pixel, then a linear layer."""

    def __init__(self, in_channels: int, *, channels: int, width: int, map_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(int(math.log2(map_size))):
            layers.append(nn.Conv2d(in_channels if index == 0 else channels, channels, 3, 2, 1))
            layers.append(nn.LeakyReLU(HEAD_LEAK))
        self.convs = nn.Sequential(*layers)
        self.linear = HeadLinear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, map_size, map_size) -> (B, D)."""
        return self.linear(rearrange(self.convs(features), "b c 1 1 -> b c"))
