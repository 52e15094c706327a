"""BiSeNet for face parsing, with the names and shapes of the published files.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation" (arXiv 1808.00897), as in
github.com/zllrunning/face-parsing.PyTorch (`79999_iter.pth`) and facexlib (`parsing_bisenet.pth`): a ResNet-18 is the
context path, and its features at an eighth of the size stand in for the spatial path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 19


class _Block(nn.Module):
    """Two convolutions and a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride > 1 or in_channels != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class _ResNet18(nn.Module):
    """(B, 3, H, W) -> features of 128, 256 and 512 channels at 1/8, 1/16 and 1/32 of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for number, (in_channels, channels) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], start=1):
            blocks = [
                _Block(in_channels, channels, stride=1 if number == 1 else 2),
                _Block(channels, channels, stride=1),
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        at_4 = self.get_submodule("layer1")(x)
        at_8 = self.get_submodule("layer2")(at_4)
        at_16 = self.get_submodule("layer3")(at_8)
        return at_8, at_16, self.get_submodule("layer4")(at_16)


class _ConvBNReLU(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _AttentionRefinement(nn.Module):
    """Features weighted per channel, from their global average."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(in_channels, channels)
        self.conv_atten = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean(dim=(2, 3), keepdim=True))).sigmoid()


class _ContextPath(nn.Module):
    """(B, 3, H, W) -> the ResNet's features and those of their context (B, 128, H / 8, W / 8) each."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _AttentionRefinement(256, 128)
        self.arm32 = _AttentionRefinement(512, 128)
        self.conv_head32 = _ConvBNReLU(128, 128)
        self.conv_head16 = _ConvBNReLU(128, 128)
        self.conv_avg = _ConvBNReLU(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at_8, at_16, at_32 = self.resnet(x)
        whole = self.conv_avg(at_32.mean(dim=(2, 3), keepdim=True))
        up_16 = self.conv_head32(F.interpolate(self.arm32(at_32) + whole, at_16.shape[-2:], mode="nearest"))
        up_8 = self.conv_head16(F.interpolate(self.arm16(at_16) + up_16, at_8.shape[-2:], mode="nearest"))
        return at_8, up_8


class _FeatureFusion(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = _ConvBNReLU(channels, channels, kernel=1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([detail, context], dim=1))
        return x + x * self.conv2(F.relu(self.conv1(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()


class _Output(nn.Module):
    def __init__(self, in_channels: int, middle_channels: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(in_channels, middle_channels)
        self.conv_out = nn.Conv2d(middle_channels, NUM_CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Pictures (B, 3, H, W), normalised as for ImageNet -> logits of 19 classes (B, 19, H, W); sides of 32 px or more.

    `conv_out16` and `conv_out32` served training alone; they are there because the files hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion(256)
        self.conv_out = _Output(256, 256)
        self.conv_out16 = _Output(128, 64)
        self.conv_out32 = _Output(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=True)
