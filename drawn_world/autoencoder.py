"""The mini latent autoencoder: diffusers' AutoencoderKL between pixel (un)shuffles, 8x smaller, 8 channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pidiff_core.mini.cell_codec import CellCodec, moments, pictures

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LATENT_CHANNELS = 8  # at equal time of training 3 dB above 4
LATENT_SCALE = 0.18215  # ComfyUI's latent format of SD 1.5: what the UNet sees is latent * LATENT_SCALE, of variance 1
UNSHUFFLE = 4  # full-resolution convolutions are what costs on a CPU
CHANNELS = (64, 96)
_NOISE = 0.06  # on normalised latents while training: neighbouring latents decode alike


def build_kl() -> AutoencoderKL:
    """The convolutional part, on (B, 3 * UNSHUFFLE^2, H / UNSHUFFLE, W / UNSHUFFLE)."""
    from diffusers import AutoencoderKL

    depth = len(CHANNELS)
    return AutoencoderKL(
        in_channels=3 * UNSHUFFLE**2,
        out_channels=3 * UNSHUFFLE**2,
        down_block_types=["DownEncoderBlock2D"] * depth,
        up_block_types=["UpDecoderBlock2D"] * depth,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
    )


class MiniAutoencoder(nn.Module):
    """encode: (B, 3, H, W) in [-1, 1] -> normalised latents (B, 8, H/8, W/8); decode: the way back.

    A linear codec of cells carries the picture from the first step on; the convolutions add what it cannot.

    An affine-free batch norm holds every latent channel at mean 0, variance 1; `fold_normalisation` moves it into the
    neighbouring 1x1 convolutions, which then speak ComfyUI's unscaled latents.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kl = build_kl()
        self.cells = CellCodec(LATENT_CHANNELS)
        self.normalise = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)
        for ending in (self.kl.encoder.conv_out, self.kl.decoder.conv_out):
            nn.init.zeros_(ending.weight)
            nn.init.zeros_(ending.bias)
        for passing in (self.kl.quant_conv, self.kl.post_quant_conv):
            nn.init.dirac_(passing.weight)
            nn.init.zeros_(passing.bias)

    def encode(self, images: Tensor) -> Tensor:
        found = moments(images, encoder=self.kl.encoder, cells=self.cells, unshuffle=UNSHUFFLE)
        return self.normalise(self.kl.quant_conv(found)[:, :LATENT_CHANNELS].float())

    def decode(self, latents: Tensor) -> Tensor:
        passed = self.kl.post_quant_conv(latents)
        return pictures(passed, decoder=self.kl.decoder, cells=self.cells, unshuffle=UNSHUFFLE)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.decode(self.encode(images) + _NOISE * noise)

    @torch.no_grad()
    def fold_normalisation(self) -> AutoencoderKL:
        """A copy of the convolutional part whose latents, times LATENT_SCALE, are the normalised ones.

        Its log-variance outputs are set to the lowest value: encoding is deterministic.
        """
        folded = build_kl()
        folded.load_state_dict(self.kl.state_dict())
        mean, std = self.normalise.running_mean, (self.normalise.running_var + self.normalise.eps).sqrt()
        scale = 1 / (std * LATENT_SCALE)
        means, spreads = slice(LATENT_CHANNELS), slice(LATENT_CHANNELS, None)
        folded.quant_conv.weight[means] *= scale[:, None, None, None]
        folded.quant_conv.bias[means] = (folded.quant_conv.bias[means] - mean) * scale
        folded.quant_conv.weight[spreads] = 0
        folded.quant_conv.bias[spreads] = -30.0
        folded.post_quant_conv.weight *= LATENT_SCALE
        return folded.eval()


def reconstruction_loss(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """L1 on pixels and on their differences to the right and below (edges), the head weighing three times as much."""
    images = batch["images"]
    output = module(images, batch["noise"]).float()
    weight = 1 + 2 * batch["masks"]
    error = output - images
    pixels = (weight * error.abs()).mean()
    edges = (weight[..., 1:] * error.diff(dim=-1).abs()).mean() + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    squared = error.square().mean()
    return {"loss": pixels + 0.5 * edges + squared, "l1": pixels, "edges": edges, "psnr": 10 * torch.log10(4 / squared)}
