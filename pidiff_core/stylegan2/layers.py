"""The layers of StyleGAN2: equalised linear, modulated convolution (section 2.2 of the paper), blur, to-RGB.

Names and shapes of the weights are those of the common PyTorch port, so its checkpoints load unchanged.
Modulation scales the activations, not the weights: s * x, then one convolution for the whole batch, then the
demodulation of every output channel. This is the same arithmetic without one weight per sample.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LEAK = 0.2  # slope of the leaky ReLU
GAIN = math.sqrt(2.0)  # keeps the variance after the leaky ReLU
FP16_CLAMP = 256.0  # activations in half precision stay far from 65504, as in the authors' own fp16 layers


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Initial weights from the global generator; on the meta device only their shape.

    There torch would import its symbolic mathematics to draw them: a second of loading.
    """
    weight = torch.empty(shape)
    return weight if weight.is_meta else weight.normal_(std=std)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU with the gain that keeps the variance."""
    return F.leaky_relu(x, LEAK) * GAIN


def blur_kernel(gain: float = 1.0) -> Tensor:
    """(4, 4): the binomial filter [1, 3, 3, 1] in both directions, summing to `gain`."""
    taps = (1.0, 3.0, 3.0, 1.0)
    return torch.tensor([[row * column * gain / 64 for column in taps] for row in taps])


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter every channel of (B, C, H, W) with `kernel` (4, 4), without padding."""
    weight = kernel.to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, weight, groups=x.shape[1])


class PixelNorm(nn.Module):
    """Scale (B, D) to unit mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D); the statistic is taken in float32."""
        return x * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + 1e-8).to(x)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weights of unit variance, scaled when used.

    Args:
        in_features, out_features: sizes.
        bias: initial value of the bias.
        lr_mul: the layer learns this much slower; its stored weights are larger by 1 / lr_mul.
        activate: leaky ReLU afterwards.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_features, in_features, std=1 / lr_mul))
        self.bias = nn.Parameter(torch.full((out_features,), bias))
        self.scale = lr_mul / math.sqrt(in_features)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return leaky(y) if self.activate else y


class Blur(nn.Module):
    """Holds the filter, which checkpoints contain as a buffer."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(gain=4.0))  # 4: three of four upsampled pixels are zero


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style (equation 1) and whose output is demodulated (equation 3).

    Args:
        in_channels, out_channels, kernel_size: sizes; an odd kernel, zero padding that keeps the picture's size.
        width: D, numbers in the style code.
        demodulate: scale every output channel to unit variance.
        upsample: double the picture's size, with a blur against aliasing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        width: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(width, in_channels, bias=1.0)
        self.scale = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.demodulate = demodulate
        self.blur = Blur() if upsample else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, in, H, W), style (B, D) -> (B, out, H, W), or (B, out, 2H, 2W) with `upsample`."""
        scale = self.modulation(style).float()  # (B, in)
        weight = self.weight[0].float() * self.scale
        gain = None
        if self.demodulate:
            # Demodulation cancels any factor of the style: scale to a maximum of 1, to stay in half precision's range.
            scale = scale / scale.detach().abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
            energy = scale.square() @ rearrange(weight.square().sum(dim=(2, 3)), "o i -> i o")
            gain = rearrange(torch.rsqrt(energy + 1e-8), "b o -> b o 1 1").to(x)
        x = x * rearrange(scale, "b i -> b i 1 1").to(x)
        weight = weight.to(x)
        if self.blur is not None:
            x = F.conv_transpose2d(x, rearrange(weight, "o i h w -> i o h w"), stride=2)
            x = blur(F.pad(x, (1, 1, 1, 1)), self.blur.kernel)
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        return x if gain is None else x * gain


class NoiseInjection(nn.Module):
    """Adds one picture of noise to every channel, with one learned strength."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, C, H, W), noise (1 or B, 1, H, W) or None."""
        return x if noise is None else x + self.weight.to(x) * noise.to(x)


class ActivationBias(nn.Module):
    """Bias and leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = leaky(x + rearrange(self.bias, "c -> c 1 1").to(x))
        return x.clamp(-FP16_CLAMP, FP16_CLAMP) if x.dtype == torch.float16 else x


class StyledConv(nn.Module):
    """3x3 modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, width: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, kernel_size=3, width=width, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = ActivationBias(out_channels)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, in, H, W), style (B, D), noise as NoiseInjection -> (B, out, H or 2H, W or 2W)."""
        return self.activate(self.noise(self.conv(x, style), noise))


class ToRGB(nn.Module):
    """1x1 modulated convolution to RGB, added to the upsampled picture so far."""

    def __init__(self, in_channels: int, *, width: int, upsample: bool = True) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, 3, kernel_size=1, width=width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Blur() if upsample else None

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, in, H, W), style (B, D), skip (B, 3, H/2, W/2) or None -> (B, 3, H, W)."""
        picture = self.conv(x, style) + self.bias.to(x)
        if skip is None or self.upsample is None:
            return picture
        spread = skip.new_zeros(*skip.shape[:2], 2 * skip.shape[2], 2 * skip.shape[3])
        spread[..., ::2, ::2] = skip
        return picture + blur(F.pad(spread, (2, 1, 2, 1)), self.upsample.kernel)
