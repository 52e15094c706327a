"""3x3 convolutions with fewer multiplications, for processors that compute in float32.

Andrew Lavin and Scott Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), equation 8: a map is cut
into overlapping tiles, tiles and kernels are brought to points at which a convolution is a product, and the products
are brought back to pixels,

    Y = A^T [(G g G^T) * (B^T d B)] A.

The sum over the channels makes the product one matrix product a point. Kernels are brought to their points anew in
every call: that costs a fraction of what it saves, and kept ones would be larger than the network.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..products import linear
from .workspace import Workspace

LARGE_PRODUCT = 1 << 17  # numbers in the rows of one product: from here on one after the other, not as a batch

FIRST, SECOND, POINTS = "padded map, then kernels", "tiles, then products", "points"  # buffers: who follows overwrites


class Line(NamedTuple):
    """The three linear maps of equation 8 in one dimension.

    Args:
        tile: B^T (points, pixels of a tile).
        kernel: G (kernels, 3).
        output: A^T (pixels of an output tile, points).
        kernel_of_point: which of the kernels multiplies each point; ascending.
    """

    tile: np.ndarray
    kernel: np.ndarray
    output: np.ndarray
    kernel_of_point: tuple[int, ...]


class Scheme:
    """Equation 8 in two dimensions, for convolutions with a padding of 1.

    Args:
        stride: of the convolution.
        rows, columns: its maps along the height and along the width.
    """

    def __init__(self, stride: int, rows: Line, columns: Line) -> None:
        self.tile_size = rows.tile.shape[1], columns.tile.shape[1]
        self.output_size = len(rows.output), len(columns.output)
        self.step = stride * self.output_size[0], stride * self.output_size[1]  # pixels from one tile to the next
        self.stride = stride
        across = np.array(columns.kernel_of_point)
        both = (np.array(rows.kernel_of_point)[:, None] * len(columns.kernel) + across).reshape(-1)
        counts = np.bincount(both)  # points that share a kernel
        points = np.lexsort((both, counts[both]))  # those lie together
        kernels = np.argsort(counts, kind="stable")
        self.to_points = torch.from_numpy(np.kron(rows.tile, columns.tile)[points]).float()
        self.to_kernels = torch.from_numpy(np.kron(rows.kernel, columns.kernel)[kernels]).float()
        self.to_outputs = torch.from_numpy(np.kron(rows.output, columns.output)[:, points]).float()
        self.groups = [(len(list(group)), int(count)) for count, group in groupby(np.sort(counts))]
        """How many kernels there are, one after the other, that so many points each share."""

    def tiles(self, height: int, width: int) -> int:
        """How many tiles a map is cut into; 0 where its sides are no multiples of `step`."""
        down, across = self.step
        return 0 if height % down or width % across else (height // down) * (width // across)

    def padded(
        self, batch: int, height: int, width: int, channels: int, *, workspace: Workspace
    ) -> tuple[Tensor, Tensor]:
        """Room for a map: (B, H', W', I) with zeros in its border, for `points`, and the part of it (B, I, H, W) that
        the map is to be written to."""
        after = [size - step - 1 for size, step in zip(self.tile_size, self.step)]  # what the last tile reads beyond
        room = workspace.take(FIRST, batch, 1 + height + after[0], 1 + width + after[1], channels)
        for border in (room[:, :1], room[:, 1 + height :], room[:, :, :1], room[:, :, 1 + width :]):
            border.zero_()
        return room, room[:, 1 : 1 + height, 1 : 1 + width].permute(0, 3, 1, 2)

    def points(self, padded: Tensor, *, workspace: Workspace) -> Tensor:
        """What `padded` made room for -> (points, B * tiles, I), in the workspace."""
        cut = padded.unfold(1, self.tile_size[0], self.step[0]).unfold(2, self.tile_size[1], self.step[1])
        cut = cut.permute(4, 5, 0, 1, 2, 3)  # b th tw i h w -> h w b th tw i
        tiles = workspace.take(SECOND, *cut.shape).copy_(cut)
        points = workspace.take(POINTS, len(self.to_points), tiles[0, 0].numel())
        torch.mm(self.to_points, tiles.view(-1, points.shape[1]), out=points)
        return points.view(len(points), -1, padded.shape[-1])

    def convolve(self, points: Tensor, weight: Tensor, *, batch: int, height: int, workspace: Workspace) -> Tensor:
        """What conv2d(x, weight) gives for the maps x that these points are of.

        Args:
            points: what `points` gave; good for any number of kernels.
            weight: (O, I, 3, 3).
            batch, height: of the output.
            workspace: for intermediate results.

        Returns:
            (B, O, height, W), channels last in memory.
        """
        channels_out, channels_in = weight.shape[:2]
        kernels = workspace.take(FIRST, len(self.to_kernels), channels_out * channels_in)
        torch.mm(self.to_kernels, weight.reshape(-1, 9).T, out=kernels)
        kernels = kernels.view(-1, channels_out, channels_in)
        products = workspace.take(SECOND, *points.shape[:2], channels_out)
        first_kernel = first_point = 0
        for group, count in self.groups:
            these = slice(first_point, first_point + group * count)
            _multiply(
                points[these].view(group, -1, channels_in),
                kernels[first_kernel : first_kernel + group],
                out=products[these].view(group, -1, channels_out),
            )
            first_kernel, first_point = first_kernel + group, these.stop
        y = linear(self.to_outputs, products.flatten(1).T)
        h = self.output_size[0]
        y = rearrange(y, "(h w) (b th tw o) -> b (th h) (tw w) o", h=h, b=batch, th=height // h, o=channels_out)
        return y.permute(0, 3, 1, 2)


def _multiply(rows: Tensor, kernels: Tensor, *, out: Tensor) -> None:
    """rows (g, n, I) times kernels (g, O, I) -> out (g, n, O)."""
    if rows[0].numel() < LARGE_PRODUCT:
        torch.bmm(rows, kernels.transpose(1, 2), out=out)
        return
    for one, kernel, product in zip(rows.unbind(), kernels.unbind(), out.unbind()):
        product.copy_(linear(one, kernel))


def _interpolation(points: tuple[float, ...], outputs: int) -> Line:
    """F(outputs, 3) by Toom and Cook's construction: products of polynomials at `points` and at infinity."""
    size = outputs + 2

    def powers(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])

    return Line(
        tile=np.linalg.inv(powers(size)).T,
        kernel=powers(3),
        output=powers(outputs).T,
        kernel_of_point=tuple(range(size)),
    )


STRIDE_1 = Scheme(
    1,
    rows=_interpolation((0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)), 4),
    columns=_interpolation((0.0, 1.0, -1.0), 2),
)
"""24 products for 8 outputs, where the convolution has 72; its rounding error is a convolution's own. Tiles of 4 x 4
outputs need fewer products, but half as much again of kernels: slower where memory is what limits."""

_TWO_STEPS = Line(
    # y0 = w0 x0 + w1 x1 + w2 x2 and y1 = w0 x2 + w1 x3 + w2 x4: two outputs share (w0 + w2) x2.
    tile=np.array([[1, 0, -1, 0, 0], [0, 0, 1, 0, 0], [0, 0, -1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]),
    kernel=np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]]),
    output=np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]]),
    kernel_of_point=(0, 1, 2, 3, 3),
)
STRIDE_2 = Scheme(2, rows=_TWO_STEPS, columns=_TWO_STEPS)
"""25 products for 4 outputs, where the convolution has 36."""
