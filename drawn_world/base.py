"""The mini base model: a text encoder and a UNet in the shape of Stable Diffusion 1.5, for 16x16x8 latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pidiff_core.mini.vocabulary import END_ID, PHRASES, START_ID, Vocabulary

from .autoencoder import LATENT_CHANNELS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

CONTEXT_TOKENS = 52  # the longest caption with every trait has as many
CONTEXT_WIDTH = 128
CHANNELS = (64, 128, 128)
HEAD_WIDTH = 32
TRAIN_STEPS = 1000
WORDS = Vocabulary(PHRASES)
BETA_START, BETA_END = 0.00085, 0.012  # SD 1.5's scaled linear schedule, which is ComfyUI's default


def text_config() -> dict[str, int | str | float]:
    """The text encoder's configuration, in the words that transformers and ComfyUI share."""
    return {
        "vocab_size": len(WORDS),
        "hidden_size": CONTEXT_WIDTH,
        "intermediate_size": 2 * CONTEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": END_ID,
    }


def build_text_encoder() -> CLIPTextModel:
    """CLIP's text transformer, small, with the drawn world's vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text_config()))


def build_unet() -> UNet2DConditionModel:
    """SD 1.5's UNet, small: cross-attention at every level, v-prediction."""
    from diffusers import UNet2DConditionModel

    levels = len(CHANNELS)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=["CrossAttnDownBlock2D"] * levels,
        up_block_types=["CrossAttnUpBlock2D"] * levels,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=[width // HEAD_WIDTH for width in CHANNELS],  # diffusers' name for the number of heads
    )


def token_ids(captions: list[str], *, phrases: bool = True) -> Tensor:
    """(B, CONTEXT_TOKENS) int64, padded with END_ID as ComfyUI pads. phrases: see `Vocabulary.tokenize`."""
    rows = torch.full((len(captions), CONTEXT_TOKENS), END_ID)
    for row, text in zip(rows, captions):
        ids = WORDS.tokenize(text, phrases=phrases)[: CONTEXT_TOKENS - 1]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def noise_levels() -> tuple[Tensor, Tensor]:
    """alpha and sigma of x_t = alpha_t x_0 + sigma_t noise, each (TRAIN_STEPS,)."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64).square()
    alpha_squared = (1 - betas).cumprod(0)
    return alpha_squared.sqrt().float(), (1 - alpha_squared).sqrt().float()


class MiniBase(nn.Module):
    """Text encoder and UNet, trained together from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.text = build_text_encoder()
        self.unet = build_unet()
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def context(self, ids: Tensor) -> Tensor:
        """(B, CONTEXT_TOKENS, CONTEXT_WIDTH)."""
        return self.text(input_ids=ids).last_hidden_state

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """v-prediction (B, 8, h, w)."""
        return self.unet(noisy, timesteps, context).sample


def velocity_loss(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean squared error of v = alpha noise - sigma x_0 (Salimans and Ho 2022), cells of the head weighing more.

    latents, noise (B, 8, h, w); masks (B, 1, h, w) in [0, 1]; alpha, sigma (B, 1, 1, 1); timesteps (B,); ids (B, L).
    """
    latents, noise, alpha, sigma = (batch[name] for name in ("latents", "noise", "alpha", "sigma"))
    prediction = module(alpha * latents + sigma * noise, batch["timesteps"], module.context(batch["ids"]))
    squared = (prediction.float() - (alpha * noise - sigma * latents)).square()
    weight = 1 + 1.5 * batch["masks"]
    return {"loss": (weight * squared).mean() / weight.mean(), "plain": squared.mean()}
