"""The linear part of mini's autoencoder: each cell of 8x8 pixels to its latent and back, beside the convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.weights import load_strict, strip_prefix

PREFIX = "cells."  # before the names of the codec's weights in a bundle
CELL = 8  # px: a latent's side in the picture


class CellCodec(nn.Module):
    """A matrix each way, which the convolutions correct. It starts as the best linear codec: they learn details only.

    Args:
        channels: C, numbers in one latent.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(3, channels, CELL, CELL)
        self.paint = nn.Conv2d(channels, 3 * CELL**2, 1)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H/8, W/8)."""
        return self.read(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, 8h, 8w)."""
        return F.pixel_shuffle(self.paint(latents), CELL)

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """The principal components of the cells of `images` (B, 3, H, W), each of variance 1."""
        channels = self.read.out_channels
        cells = F.pixel_unshuffle(images.float(), CELL).movedim(1, -1).flatten(0, -2)
        mean = cells.mean(dim=0)
        _, spread, axes = torch.linalg.svd(cells - mean, full_matrices=False)
        axes, spread = axes[:channels], spread[:channels] / len(cells) ** 0.5
        reading = axes / spread[:, None]
        self.read.weight.copy_(reading.reshape(channels, 3, CELL, CELL))  # pixel_unshuffle's order of channels
        self.read.bias.copy_(-reading @ mean)
        self.paint.weight.copy_((axes * spread[:, None]).T[:, :, None, None])
        self.paint.bias.copy_(mean)


def moments(images: Tensor, *, encoder: nn.Module, cells: CellCodec | None, unshuffle: int) -> Tensor:
    """Pictures (B, 3, H, W) -> what an AutoencoderKL's quant_conv reads (B, 2C, h, w): cells are added to the means."""
    found = encoder(F.pixel_unshuffle(images, unshuffle))
    if cells is None:
        return found
    means, spreads = found.chunk(2, dim=1)
    return torch.cat([means + cells.encode(images), spreads], dim=1)


def pictures(latents: Tensor, *, decoder: nn.Module, cells: CellCodec | None, unshuffle: int) -> Tensor:
    """What an AutoencoderKL's post_quant_conv gives (B, C, h, w) -> pictures (B, 3, 8h, 8w)."""
    drawn = F.pixel_shuffle(decoder(latents), unshuffle)
    return drawn if cells is None else drawn + cells.decode(latents)


class _EncoderOfPictures(nn.Module):
    def __init__(self, encoder: nn.Module, cells: CellCodec | None, unshuffle: int) -> None:
        super().__init__()
        self.encoder, self.cells, self.unshuffle = encoder, cells, unshuffle

    def forward(self, images: Tensor) -> Tensor:
        return moments(images, encoder=self.encoder, cells=self.cells, unshuffle=self.unshuffle)


class _DecoderOfPictures(nn.Module):
    def __init__(self, decoder: nn.Module, cells: CellCodec | None, unshuffle: int) -> None:
        super().__init__()
        self.decoder, self.cells, self.unshuffle = decoder, cells, unshuffle

    def forward(self, latents: Tensor) -> Tensor:
        return pictures(latents, decoder=self.decoder, cells=self.cells, unshuffle=self.unshuffle)


def between_pictures(kl: nn.Module, *, cells: CellCodec | None, unshuffle: int) -> None:
    """Make an AutoencoderKL, ComfyUI's or diffusers', read and draw pictures instead of unshuffled pixels."""
    kl.encoder = _EncoderOfPictures(kl.encoder, cells, unshuffle)
    kl.decoder = _DecoderOfPictures(kl.decoder, cells, unshuffle)


def stored_cells(tensors: dict[str, Tensor]) -> CellCodec | None:
    """The codec in a bundle's weights; version 0 has none."""
    state = strip_prefix(tensors, PREFIX)
    if not state:
        return None
    cells = CellCodec(len(state["read.bias"]))
    load_strict(cells, state, name="the mini autoencoder's cells", dtype=torch.float32)
    return cells.eval().requires_grad_(False)
