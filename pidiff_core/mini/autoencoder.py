"""The mini latent autoencoder: diffusers' AutoencoderKL between pixel (un)shuffles, 8x smaller, 4 channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

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
        latent_channels=4,
    )


class MiniAutoencoder(nn.Module):
    """encode: (B, 3, H, W) in [-1, 1] -> normalised latents (B, 4, H/8, W/8); decode: the way back.

    An affine-free batch norm holds every latent channel at mean 0, variance 1; `fold_normalisation` moves it into the
    neighbouring 1x1 convolutions, which then speak ComfyUI's unscaled latents.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kl = build_kl()
        self.normalise = nn.BatchNorm2d(4, affine=False, momentum=0.02)

    def encode(self, images: Tensor) -> Tensor:
        moments = self.kl.quant_conv(self.kl.encoder(F.pixel_unshuffle(images, UNSHUFFLE)))
        return self.normalise(moments[:, :4].float())

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.kl.decoder(self.kl.post_quant_conv(latents)), UNSHUFFLE)

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
        folded.quant_conv.weight[:4] *= scale[:, None, None, None]
        folded.quant_conv.bias[:4] = (folded.quant_conv.bias[:4] - mean) * scale
        folded.quant_conv.weight[4:] = 0
        folded.quant_conv.bias[4:] = -30.0
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
