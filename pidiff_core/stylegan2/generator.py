"""The generator: mapping network z -> w and synthesis network W+ codes -> picture."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import PIDiffError
from ..initial import normal
from ..shapes import check_shape
from .config import GeneratorConfig
from .layers import EqualLinear, PixelNorm, StyledConv, ToRGB

Noise = Literal["fixed", "random"]


class ConstantInput(nn.Module):
    """The learned 4x4 picture that every synthesis starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(normal(1, channels, 4, 4))


class Generator(nn.Module):
    """StyleGAN2 with skip connections to RGB ("config F"), in any size.

    Args:
        config: the sizes.

    Example:
        >>> generator = Generator(PRESETS["mini-64"])
        >>> codes = generator.mapping(torch.randn(2, 128))[:, None].expand(-1, 10, -1)
        >>> generator.synthesis(codes, noise="fixed").shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.channels
        layers: list[nn.Module] = [PixelNorm()]
        for index in range(config.mapping_layers):
            in_features = config.z_dim if index == 0 else width
            layers.append(EqualLinear(in_features, width, lr_mul=config.mapping_lr_mul, activate=True))
        self.style = nn.Sequential(*layers)
        self.input = ConstantInput(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], width=width)
        self.to_rgb1 = ToRGB(channels[0], width=width, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for before, after in pairwise(channels):
            self.convs.append(StyledConv(before, after, width=width, upsample=True))
            self.convs.append(StyledConv(after, after, width=width))
            self.to_rgbs.append(ToRGB(after, width=width))
        self.noises = nn.Module()
        for layer in range(1 + len(self.convs)):
            side = 2 ** ((layer + 5) // 2)  # 4, 8, 8, 16, 16 ...
            self.noises.register_buffer(f"noise_{layer}", normal(1, 1, side, side))

    def mapping(self, z: Tensor) -> Tensor:
        """Gaussian vectors (B, z_dim) -> w (B, D)."""
        check_shape(z, f"B {self.config.z_dim}", name="z")
        return self.style(z)

    def synthesis(self, codes: Tensor, *, noise: Noise | None = "fixed", rng: torch.Generator | None = None) -> Tensor:
        """Absolute W+ codes (B, S, D) -> pictures (B, 3, size, size), about [-1, 1], not clamped.

        Args:
            codes: the average is already added.
            noise: "fixed" takes the noise stored with the weights (the same picture every time), "random" draws it anew
                (as in training), None adds none.
            rng: where random noise is drawn from.

        Raises:
            PIDiffError: codes of another space.
        """
        check_shape(codes, f"B {self.config.num_styles} {self.config.width}", name="W+ codes for this generator")
        pictures = self._noise(noise, codes=codes, rng=rng)
        styles = codes.unbind(dim=1)
        x = self.input.input.to(codes).expand(len(codes), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)  # every layer keeps it: a fifth to a third quicker
        x = self.conv1(x, styles[0], pictures[0])
        rgb = self.to_rgb1(x, styles[1])
        for level, to_rgb in enumerate(self.to_rgbs):
            first = 2 * level + 1  # the level's second style is shared with the next level's first convolution
            x = self.convs[2 * level](x, styles[first], pictures[first])
            x = self.convs[2 * level + 1](x, styles[first + 1], pictures[first + 1])
            rgb = to_rgb(x, styles[first + 2], rgb)
        return rgb

    def forward(self, codes: Tensor) -> Tensor:
        """`synthesis` with fixed noise."""
        return self.synthesis(codes)

    @torch.no_grad()
    def average(self, samples: int = 4096, *, rng: torch.Generator | None = None) -> Tensor:
        """(S, D): the mean of w over `samples` random z, repeated for every style."""
        weight = self.input.input
        z = torch.randn(samples, self.config.z_dim, generator=rng, device=rng.device if rng else weight.device)
        return self.mapping(z.to(weight)).mean(dim=0).expand(self.config.num_styles, -1).clone()

    def _noise(self, noise: Noise | None, *, codes: Tensor, rng: torch.Generator | None) -> list[Tensor | None]:
        if noise is None:
            return [None] * (1 + len(self.convs))
        stored = [getattr(self.noises, f"noise_{layer}") for layer in range(1 + len(self.convs))]
        if noise == "fixed":
            return stored
        if noise == "random":
            device = rng.device if rng else codes.device
            sides = [picture.shape[-1] for picture in stored]
            return [torch.randn(len(codes), 1, side, side, generator=rng, device=device).to(codes) for side in sides]
        raise PIDiffError(f"The generator's noise should be 'fixed', 'random' or None, but it is {noise!r}.")
