"""ParseNet for face parsing, with the names and shapes of the published files.

Chen et al., "Progressive Semantic-Aware Style Transformation for Blind Face Restoration" (PSFRGAN, arXiv 2009.08709):
`parse_multi_iter_90000.pth`, which W+ Adapter's preparation uses, and facexlib's `parsing_parsenet.pth`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 19
_DOWN = ((64, 128), (128, 256), (256, 256), (256, 256))  # channels of each halving: 512 px down to 32
_BODY_CHANNELS, _BODY_BLOCKS = 256, 10


class _Norm(nn.Module):
    """Batch norm, one name deeper than usual: `norm.norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _Conv(nn.Module):
    """3x3 over a mirrored border, after doubling the size (scale 2) or with stride 2 (scale 0.5)."""

    def __init__(self, in_channels: int, channels: int, *, scale: float = 1.0, norm: bool = False, act: bool = False):
        super().__init__()
        self.doubles, self.activates = scale > 1.0, act
        self.conv2d = nn.Conv2d(in_channels, channels, 3, stride=2 if scale < 1.0 else 1, bias=not norm)
        self.norm = _Norm(channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.doubles:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = x if self.norm is None else self.norm(x)
        return F.leaky_relu(x, 0.2) if self.activates else x


class _Residual(nn.Module):
    """Two convolutions and a shortcut; the size doubles in the first, or halves in the second."""

    def __init__(self, in_channels: int, channels: int, *, scale: float = 1.0) -> None:
        super().__init__()
        plain = scale == 1.0 and in_channels == channels
        self.shortcut_func = None if plain else _Conv(in_channels, channels, scale=scale)
        self.conv1 = _Conv(in_channels, channels, scale=max(scale, 1.0), norm=True, act=True)
        self.conv2 = _Conv(channels, channels, scale=min(scale, 1.0), norm=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut_func is None else self.shortcut_func(x)
        return shortcut + self.conv2(self.conv1(x))


class ParseNet(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1], sides multiples of 16 -> logits of 19 classes (B, 19, H, W).

    `out_img_conv` restores the picture, which is not needed here; the files hold it.
    """

    def __init__(self) -> None:
        super().__init__()
        first = _DOWN[0][0]
        self.encoder = nn.Sequential(_Conv(3, first), *(_Residual(a, b, scale=0.5) for a, b in _DOWN))
        self.body = nn.Sequential(*(_Residual(_BODY_CHANNELS, _BODY_CHANNELS) for _ in range(_BODY_BLOCKS)))
        self.decoder = nn.Sequential(*(_Residual(b, a, scale=2.0) for a, b in reversed(_DOWN)))
        self.out_img_conv = _Conv(first, 3)
        self.out_mask_conv = _Conv(first, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        return self.out_mask_conv(self.decoder(features + self.body(features)))
