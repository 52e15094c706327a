"""A readable version of the published e4e inference code, the reference of `bench.py encode`.

Omer Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (arXiv 2102.02766), written plainly after the
published architecture and independent of `pidiff_core`. Encoder and generator are built with their initial weights, the
whole file is read into memory, both are filled from it, and a picture goes through the modules one by one in float32.
The generator is only ever loaded here, so its modules hold weights and do nothing.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLES = 18
WIDTH = 512
BODY = ((64, 3), (128, 4), (256, 14), (512, 3))  # depth and number of the units in each group
GENERATOR_CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # at 4, 8, ... 1024 px


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(gate))))


class Unit(nn.Module):
    def __init__(self, channels: int, depth: int, stride: int) -> None:
        super().__init__()
        if channels == depth:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, depth, 3, 1, 1, bias=False),
            nn.PReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
            SqueezeExcite(depth),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class EqualLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = lr_mul / inputs**0.5
        self.lr_mul = lr_mul

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


class Head(nn.Module):
    def __init__(self, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(halvings):
            layers += [nn.Conv2d(512, 512, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(512, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Encoder(nn.Module):
    """Pictures (B, 3, 256, 256) in [-1, 1] -> offsets (B, 18, 512) from the average code."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units, channels = [], 64
        for depth, count in BODY:
            for index in range(count):
                units.append(Unit(channels, depth, 2 if index == 0 else 1))
                channels = depth
        self.body = nn.Sequential(*units)
        self.styles = nn.ModuleList(Head(4 if style < 3 else 5 if style < 7 else 6) for style in range(STYLES))
        self.latlayer1 = nn.Conv2d(256, 512, 1)
        self.latlayer2 = nn.Conv2d(128, 512, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.input_layer(images)
        outputs = []
        for unit in self.body:
            x = unit(x)
            outputs.append(x)
        fine, medium, coarse = outputs[6], outputs[20], outputs[23]
        medium = upsampled(coarse, medium) + self.latlayer1(medium)
        fine = upsampled(medium, fine) + self.latlayer2(fine)
        first = self.styles[0](coarse)
        codes = first[:, None].repeat(1, STYLES, 1)
        for style in range(1, STYLES):
            codes[:, style] += self.styles[style](coarse if style < 3 else medium if style < 7 else fine)
        return codes


def upsampled(coarser: Tensor, finer: Tensor) -> Tensor:
    return F.interpolate(coarser, size=finer.shape[-2:], mode="bilinear", align_corners=True)


class Holder(nn.Module):
    """Weights, buffers and modules under the names that the checkpoint gives them."""

    def __init__(self, **parts: Tensor | nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)


def modulated(inputs: int, outputs: int, size: int, *, upsample: bool = False) -> Holder:
    weight = nn.Parameter(torch.randn(1, outputs, inputs, size, size))
    blur = {"blur": Holder(kernel=blur_kernel())} if upsample else {}
    return Holder(weight=weight, modulation=EqualLinear(WIDTH, inputs), **blur)


def styled(inputs: int, outputs: int, *, upsample: bool = False) -> Holder:
    return Holder(
        conv=modulated(inputs, outputs, 3, upsample=upsample),
        noise=Holder(weight=nn.Parameter(torch.zeros(1))),
        activate=Holder(bias=nn.Parameter(torch.zeros(outputs))),
    )


def to_rgb(inputs: int, *, upsample: bool = True) -> Holder:
    kernel = {"upsample": Holder(kernel=blur_kernel())} if upsample else {}
    return Holder(conv=modulated(inputs, 3, 1), bias=nn.Parameter(torch.zeros(1, 3, 1, 1)), **kernel)


def blur_kernel() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 16


def generator() -> Holder:
    """StyleGAN2 of 1024 px with its initial weights."""
    channels = GENERATOR_CHANNELS
    convs, to_rgbs = nn.ModuleList(), nn.ModuleList()
    for before, after in pairwise(channels):
        convs += [styled(before, after, upsample=True), styled(after, after)]
        to_rgbs.append(to_rgb(after))
    sides = [2 ** ((layer + 5) // 2) for layer in range(1 + len(convs))]
    return Holder(
        style=nn.Sequential(nn.Identity(), *(EqualLinear(WIDTH, WIDTH, lr_mul=0.01) for _ in range(8))),
        input=Holder(input=nn.Parameter(torch.randn(1, channels[0], 4, 4))),
        conv1=styled(channels[0], channels[0]),
        to_rgb1=to_rgb(channels[0], upsample=False),
        convs=convs,
        to_rgbs=to_rgbs,
        noises=Holder(**{f"noise_{layer}": torch.randn(1, 1, side, side) for layer, side in enumerate(sides)}),
    )


class Reference(nn.Module):
    """The published inversion network: encoder, decoder and average code out of one file.

    The published script reads the file a second time for its options; that is left out here, in the reference's favour.
    """

    latent_avg: Tensor

    def __init__(self, path: str) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = generator()
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("encoder", "decoder"):
            state = checkpoint["state_dict"]
            part = {key[len(name) + 1 :]: tensor for key, tensor in state.items() if key.startswith(name)}
            getattr(self, name).load_state_dict(part, strict=True)
        self.latent_avg = checkpoint["latent_avg"]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, 256, 256) in [-1, 1] -> codes (B, 18, 512)."""
        return self.encoder(images) + self.latent_avg
