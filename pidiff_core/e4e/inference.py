"""The encoder's arithmetic without gradients, for speed; `E4eEncoder.plain` is its readable twin.

What is different: maps lie channels last in memory, a unit's last batch norm rides on the squeeze-and-excitation's
gate, a shortcut that changes nothing is not computed, and on a CPU every convolution takes the way that is quickest for
its size. The weights are used as the checkpoint has them; no second form of them is kept.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import HEAD_LEAK, IRSEUnit, SqueezeExcite, StyleHead
from .winograd import STRIDE_1, STRIDE_2, Workspace

# Measured in float32 on cores with AVX-512; on others the best limits lie elsewhere, but the order is the same.
MIN_CHANNELS = 128  # below, Winograd's tiles cost more than the products that they save
MIN_TILES_STRIDE_1, MIN_TILES_STRIDE_2 = 64, 256  # below, its kernels do
MAX_PIXELS_AS_MATRIX = 4  # up to here a convolution is bound by reading its weights: plain matrix products
MATRIX_PARTS = 16  # of such a product, side by side: one alone is read by one thread


def stem(layers: nn.Sequential, images: Tensor) -> Tensor:
    """Convolution, batch norm, PReLU."""
    conv, norm, activation = cast(tuple[nn.Conv2d, nn.BatchNorm2d, nn.PReLU], tuple(layers))
    scale, shift = _affine(norm)
    x = images.contiguous(memory_format=torch.channels_last)
    return activation(F.conv2d(x, (conv.weight * scale[..., None]).to(x), shift.flatten().to(x), padding=1))


def unit(layer: IRSEUnit, x: Tensor, *, workspace: Workspace) -> Tensor:
    """What `layer(x)` gives, its end computed as (shortcut + gate * shift) + (gate * scale) * y."""
    first_norm, conv1, activation, conv2, last_norm, excite = cast(
        tuple[nn.BatchNorm2d, nn.Conv2d, nn.PReLU, nn.Conv2d, nn.BatchNorm2d, SqueezeExcite], tuple(layer.res_layer)
    )
    y = activation(_convolve(conv1, first_norm(x), workspace))
    y = _convolve(conv2, y, workspace)
    scale, shift = (value.to(y) for value in _affine(last_norm))
    gate = excite.gate(torch.addcmul(shift, y.mean(dim=(2, 3), keepdim=True), scale))
    if isinstance(layer.shortcut_layer, nn.Sequential):
        conv, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(layer.shortcut_layer))
        factor, offset = (value.to(y) for value in _affine(norm))
        shortcut = torch.addcmul(torch.addcmul(offset, gate, shift), conv(x), factor)
    else:
        stride = conv2.stride[0]
        shortcut = torch.addcmul(x[..., ::stride, ::stride], gate, shift)
    return torch.addcmul(shortcut, gate * scale, y)


def heads(layers: list[StyleHead], features: Tensor, *, workspace: Workspace) -> list[Tensor]:
    """Styles (B, D) of several heads that read the same map (B, C, H, H)."""
    batch, _, height, width = features.shape
    points = None
    if _pays(features, tiles=batch * STRIDE_2.tiles(height, width), at_least=MIN_TILES_STRIDE_2):
        points = STRIDE_2.points(features)  # once for all heads
    styles = []
    for layer in layers:
        first, *others = (conv for conv in layer.convs if isinstance(conv, nn.Conv2d))
        if points is None:
            x = _convolve(first, features, workspace)
        else:
            x = STRIDE_2.convolve(points, first.weight, batch=batch, height=height // 2, workspace=workspace)
            x += rearrange(cast(Tensor, first.bias), "o -> o 1 1")
        x = F.leaky_relu_(x, HEAD_LEAK).contiguous()
        for conv in others:
            x = F.leaky_relu_(_convolve(conv, x, workspace), HEAD_LEAK)
        styles.append(layer.linear(x.flatten(1)))
    return styles


def _convolve(conv: nn.Conv2d, x: Tensor, workspace: Workspace) -> Tensor:
    """`conv(x)`, 3x3, of the body (stride 1 or 2, no bias) or of a head (stride 2, bias)."""
    batch, _, height, width = x.shape
    if conv.stride[0] == 1:
        if _pays(x, tiles=batch * STRIDE_1.tiles(height, width), at_least=MIN_TILES_STRIDE_1):
            points = STRIDE_1.points(x)
            return STRIDE_1.convolve(points, conv.weight, batch=batch, height=height, workspace=workspace)
    elif x.is_cpu and batch * height * width <= 4 * MAX_PIXELS_AS_MATRIX:
        parts = math.gcd(MATRIX_PARTS, conv.out_channels)
        columns = rearrange(F.unfold(x, 3, padding=1, stride=2), "b k l -> (b l) k").expand(parts, -1, -1)
        y = torch.bmm(columns, rearrange(conv.weight, "(p o) i h w -> p (i h w) o", p=parts))
        y = rearrange(y, "p (b h w) o -> b (p o) h w", b=batch, h=height // 2)
        return y if conv.bias is None else y + rearrange(conv.bias, "o -> o 1 1")
    return conv(x)


def _pays(x: Tensor, *, tiles: int, at_least: int) -> bool:
    """Whether Winograd's way is quicker: float32 on a CPU, channels enough, and a map of tiles enough."""
    return x.is_cpu and x.dtype == torch.float32 and tiles >= at_least and x.shape[1] >= MIN_CHANNELS


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation mode as (scale, shift), (C, 1, 1) each, float32."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight.float() * torch.rsqrt(variance.float() + norm.eps)
    shift = norm.bias.float() - mean.float() * scale
    return rearrange(scale, "c -> c 1 1"), rearrange(shift, "c -> c 1 1")
