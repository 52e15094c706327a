"""The generator: mapping network z -> w and synthesis network W+ codes -> picture."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import PIDiffError
from ..shapes import check_shape
from .config import GeneratorConfig
from .layers import EqualLinear, PixelNorm, StyledConv, ToRGB, normal

Noise = Literal["fixed", "random"]


class ConstantInput(nn.Module):
    """The learned 4x4 feature map at the start of every synthesis."""

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

    def synthesis(
        self,
        codes: Tensor,
        *,
        noise: Noise | None = "fixed",
        rng: torch.Generator | None = None,
        size_px: int | None = None,
    ) -> Tensor:
        """Absolute W+ codes (B, S, D) -> pictures (B, 3, size, size), about [-1, 1], not clamped.

        Args:
            codes: the average included.
            noise: "fixed" uses the noise stored with the weights (the same picture every time), "random" new noise, as
                in training, None no noise.
            rng: generator of the random noise.
            size_px: stop at this size, a power of two: a small portrait that is drawn fast. It shows what the skip
                connections have added up to there; the styles of larger sizes do not act. None: the whole synthesis.

        Raises:
            PIDiffError: codes of another space.
        """
        check_shape(codes, f"B {self.config.num_styles} {self.config.width}", name="W+ codes for this generator")
        pictures = self._noise(noise, codes=codes, rng=rng)
        styles = codes.unbind(dim=1)
        x = self.input.input.to(codes).expand(len(codes), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)  # every layer keeps it; 20 to 33 % faster
        x = self.conv1(x, styles[0], pictures[0])
        rgb = self.to_rgb1(x, styles[1])
        for level, to_rgb in enumerate(self.to_rgbs):
            if size_px is not None and rgb.shape[-1] >= size_px:
                break
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

    def shortened(self, size: int) -> Generator:
        """A copy of the networks up to `size` px, in float32 on the CPU: for small portraits.

        It takes the first styles of the same codes, `config.num_styles` of them. This generator is not changed,
        wherever its weights are.
        """
        config = self.config
        size = min(size, config.size)
        kept = dataclasses.replace(config, size=size, channels=config.channels[: int(math.log2(size)) - 1])
        with torch.device("meta"):
            short = Generator(kept)
        state = self.state_dict()
        own = {name: state[name].detach().to("cpu", torch.float32, copy=True) for name in short.state_dict()}
        short.load_state_dict(own, assign=True)
        return short.eval().requires_grad_(False)

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
        raise PIDiffError(f"The generator's noise must be 'fixed', 'random' or None, but it is {noise!r}.")
