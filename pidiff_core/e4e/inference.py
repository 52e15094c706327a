"""The encoder's arithmetic without gradients, for speed; `E4eEncoder.plain` is its readable twin.

What is different: maps lie channels last in memory, a unit's last batch norm rides on the squeeze-and-excitation's
gate, a shortcut that changes nothing is not computed, and on a CPU every convolution takes the way that is quickest for
its size. The weights are used as the checkpoint has them; no second form of them is kept.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..products import linear
from .layers import HEAD_LEAK, IRSEUnit, SqueezeExcite, StyleHead
from .winograd import FIRST, STRIDE_1, STRIDE_2, Scheme
from .workspace import Workspace

# Measured in float32 on cores with AVX-512; on others the best limits lie elsewhere, but the order is the same.
MIN_CHANNELS = 256  # below, Winograd's tiles cost more than the products that they save
MIN_TILES_STRIDE_1, MIN_TILES_STRIDE_2 = 32, 256  # below, its kernels do
LARGE_MAP = 1 << 21  # bytes: it does not lie in a core's own cache
MAX_PIXELS_AS_MATRIX = 4  # up to here a convolution is bound by reading its weights: a plain matrix product


def stem(layers: nn.Sequential, images: Tensor) -> Tensor:
    """Convolution, batch norm, PReLU."""
    conv, norm, activation = cast(tuple[nn.Conv2d, nn.BatchNorm2d, nn.PReLU], tuple(layers))
    scale, shift = _affine(norm)
    x = images.contiguous(memory_format=torch.channels_last)
    return _activate(activation, F.conv2d(x, (conv.weight * scale[..., None]).to(x), shift.flatten().to(x), padding=1))


def unit(layer: IRSEUnit, x: Tensor, *, workspace: Workspace) -> Tensor:
    """What `layer(x)` gives, its end computed as (shortcut + gate * shift) + (gate * scale) * y."""
    first_norm, conv1, activation, conv2, last_norm, excite = cast(
        tuple[nn.BatchNorm2d, nn.Conv2d, nn.PReLU, nn.Conv2d, nn.BatchNorm2d, SqueezeExcite], tuple(layer.res_layer)
    )
    y = _activate(activation, _convolve(conv1, x, workspace, norm=first_norm))
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
    return torch.addcmul(shortcut, gate * scale, y, out=y)


def _activate(activation: nn.PReLU, y: Tensor) -> Tensor:
    """`activation(y)`, on a CPU written over y part by part where y is large: a second map would be fresh memory."""
    if not y.is_cpu or y.nbytes <= LARGE_MAP:
        return activation(y)
    for part in y.split(max(y.shape[2] * LARGE_MAP // y.nbytes, 1), dim=2):
        part.copy_(activation(part))
    return y


def heads(layers: list[StyleHead], features: Tensor, *, workspace: Workspace) -> list[Tensor]:
    """Styles (B, D) of several heads that read the same map (B, C, H, H)."""
    batch, _, height, _ = features.shape
    points = None
    if _pays(features, STRIDE_2, at_least=MIN_TILES_STRIDE_2):
        points = _points(STRIDE_2, features, workspace)  # once for all heads
    elif features.is_cpu:
        features = features.contiguous()  # channels last, each convolution would copy its weights to lie so too
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


def _convolve(conv: nn.Conv2d, x: Tensor, workspace: Workspace, *, norm: nn.BatchNorm2d | None = None) -> Tensor:
    """`conv(norm(x))`, 3x3, of the body (stride 1 or 2, no bias) or of a head (stride 2, bias)."""
    batch, _, height, width = x.shape
    if conv.stride[0] == 1 and _pays(x, STRIDE_1, at_least=MIN_TILES_STRIDE_1):
        points = _points(STRIDE_1, x, workspace, norm=norm)
        return STRIDE_1.convolve(points, conv.weight, batch=batch, height=height, workspace=workspace)
    if norm is not None:
        x = _normalised(norm, x, workspace) if x.is_cpu and x.dtype == torch.float32 else norm(x)
    if conv.stride[0] == 2 and x.is_cpu and batch * height * width <= 4 * MAX_PIXELS_AS_MATRIX:
        y = linear(rearrange(F.unfold(x, 3, padding=1, stride=2), "b k l -> (b l) k"), conv.weight.flatten(1))
        y = rearrange(y, "(b h w) o -> b o h w", b=batch, h=height // 2)
        return y if conv.bias is None else y + rearrange(conv.bias, "o -> o 1 1")
    return conv(x)


def _points(scheme: Scheme, x: Tensor, workspace: Workspace, *, norm: nn.BatchNorm2d | None = None) -> Tensor:
    """The points of `norm(x)`."""
    batch, channels, height, width = x.shape
    padded, inside = scheme.padded(batch, height, width, channels, workspace=workspace)
    if norm is None:
        inside.copy_(x)
    else:
        _normalise(norm, x, out=inside)
    return scheme.points(padded, workspace=workspace)


def _normalised(norm: nn.BatchNorm2d, x: Tensor, workspace: Workspace) -> Tensor:
    """`norm(x)` in the workspace, channels last."""
    batch, channels, height, width = x.shape
    out = rearrange(workspace.take(FIRST, batch, height, width, channels), "b h w c -> b c h w")
    _normalise(norm, x, out=out)
    return out


def _normalise(norm: nn.BatchNorm2d, x: Tensor, *, out: Tensor) -> None:
    scale, shift = _affine(norm)
    torch.addcmul(shift, x, scale, out=out)


def _pays(x: Tensor, scheme: Scheme, *, at_least: int) -> bool:
    """Whether Winograd's way is quicker: float32 on a CPU, channels enough, and a map of tiles enough."""
    batch, channels, height, width = x.shape
    if not x.is_cpu or x.dtype != torch.float32 or channels < MIN_CHANNELS:
        return False
    return batch * scheme.tiles(height, width) >= at_least


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation mode as (scale, shift), (C, 1, 1) each, float32."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight.float() * torch.rsqrt(variance.float() + norm.eps)
    shift = norm.bias.float() - mean.float() * scale
    return rearrange(scale, "c -> c 1 1"), rearrange(shift, "c -> c 1 1")
