"""3x3 convolutions with fewer multiplications, for processors that compute in float32.

Andrew Lavin and Scott Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), equation 8: a map is cut
into overlapping tiles, tiles and kernels are brought to points at which a convolution is a product, and the products
are brought back to pixels,

    Y = A^T [(G g G^T) * (B^T d B)] A.

The sum over the channels makes the product one matrix product a point. Nothing is kept between two calls: bringing a
kernel to its points costs a fraction of what it saves, and kept copies would be larger than the network.
"""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class Workspace:
    """Memory that one convolution after the other writes its large intermediate results to: it stays in the cache."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of this shape on the CPU; what was taken under the same name before is overwritten."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size)
        return self._buffers[name][:size].view(shape)


class Scheme:
    """The three linear maps of equation 8, in two dimensions, for convolutions with a padding of 1.

    Args:
        stride: of the convolution.
        tile: B^T in one dimension, (points, pixels of a tile).
        kernel: G in one dimension, (kernels, 3).
        output: A^T in one dimension, (pixels of an output tile, points).
        kernel_of_point: which of the kernels multiplies each point; ascending.
    """

    def __init__(
        self, stride: int, *, tile: np.ndarray, kernel: np.ndarray, output: np.ndarray, kernel_of_point: tuple[int, ...]
    ) -> None:
        self.tile_size, self.output_size = tile.shape[1], len(output)
        self.step = stride * self.output_size  # pixels from one tile to the next
        number = np.array(kernel_of_point)
        both = (number[:, None] * len(kernel) + number).reshape(-1)  # of a point in two dimensions
        counts = np.bincount(both)  # points that share a kernel
        points, kernels = (
            np.lexsort((both, counts[both])),
            np.argsort(counts, kind="stable"),
        )  # shared ones lie together
        self.to_points = torch.from_numpy(np.kron(tile, tile)[points]).float()
        self.to_kernels = torch.from_numpy(np.kron(kernel, kernel)[kernels]).float()
        self.to_outputs = torch.from_numpy(np.kron(output, output)[:, points]).float()
        self.groups = [(len(list(group)), int(count)) for count, group in groupby(np.sort(counts))]
        """How many kernels there are, one after the other, that so many points each share."""

    def tiles(self, height: int, width: int) -> int:
        """How many tiles a map is cut into; 0 where its sides are no multiples of `step`."""
        return 0 if height % self.step or width % self.step else (height // self.step) * (width // self.step)

    def points(self, x: Tensor) -> Tensor:
        """Maps (B, I, H, W) -> (points, B * tiles, I)."""
        after = self.tile_size - self.step - 1  # pixels that the last tile reads beyond the map
        padded = F.pad(rearrange(x, "b i h w -> b h w i"), (0, 0, 1, after, 1, after))
        cut = padded.unfold(1, self.tile_size, self.step).unfold(2, self.tile_size, self.step)
        points = self.to_points @ rearrange(cut, "b th tw i h w -> (h w) (b th tw i)")
        return rearrange(points, "p (n i) -> p n i", i=x.shape[1])

    def convolve(self, points: Tensor, weight: Tensor, *, batch: int, height: int, workspace: Workspace) -> Tensor:
        """What conv2d(x, weight) gives for the maps x that these points are of.

        Args:
            points: what `points(x)` gave; good for any number of kernels.
            weight: (O, I, 3, 3).
            batch, height: of the output.
            workspace: for intermediate results.

        Returns:
            (B, O, height, W), channels last in memory.
        """
        kernels = workspace.take("kernels", len(self.to_kernels), weight[:, :, 0, 0].numel())
        torch.mm(self.to_kernels, rearrange(weight, "o i h w -> (h w) (o i)"), out=kernels)
        kernels = rearrange(kernels, "p (o i) -> p i o", o=len(weight))
        products = workspace.take("products", *points.shape[:2], len(weight))
        first_kernel = first_point = 0
        for group, count in self.groups:
            these = slice(first_point, first_point + group * count)
            torch.bmm(
                rearrange(points[these], "(g c) n i -> g (c n) i", g=group),
                kernels[first_kernel : first_kernel + group],
                out=rearrange(products[these], "(g c) n o -> g (c n) o", g=group),
            )
            first_kernel, first_point = first_kernel + group, these.stop
        y = self.to_outputs @ products.flatten(1)
        m = self.output_size
        y = rearrange(y, "(h w) (b th tw o) -> b (th h) (tw w) o", h=m, b=batch, th=height // m, o=len(weight))
        return rearrange(y, "b h w o -> b o h w")


def _interpolation(points: tuple[float, ...], outputs: int) -> Scheme:
    """F(outputs, 3) by Toom and Cook's construction: products of polynomials at `points` and at infinity."""
    size = outputs + 2

    def powers(count: int) -> np.ndarray:
        return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])

    return Scheme(
        1,
        tile=np.linalg.inv(powers(size)).T,
        kernel=powers(3),
        output=powers(outputs).T,
        kernel_of_point=tuple(range(size)),
    )


STRIDE_1 = _interpolation((0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5)), 4)
"""36 products for 16 outputs, where the convolution has 144; these points keep its rounding error as well."""

STRIDE_2 = Scheme(
    2,
    # y0 = w0 x0 + w1 x1 + w2 x2 and y1 = w0 x2 + w1 x3 + w2 x4: two outputs share (w0 + w2) x2.
    tile=np.array([[1, 0, -1, 0, 0], [0, 0, 1, 0, 0], [0, 0, -1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]),
    kernel=np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]]),
    output=np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]]),
    kernel_of_point=(0, 1, 2, 3, 3),
)
"""25 products for 4 outputs, where the convolution has 36."""
