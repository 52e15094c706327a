"""One interface to every base model: the UNet, the autoencoder and the text encoder, each loaded on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from einops import repeat
from torch import Tensor, nn

from ...errors import PIDiffError
from ...shapes import check_shape

TRAIN_STEPS = 1000


@dataclass(frozen=True, eq=False)
class TextCondition:
    """Encoded captions.

    Args:
        context: (B, L, W).
        pooled: (B, P), for a base that asks for it (XL), else None.
    """

    context: Tensor
    pooled: Tensor | None = None


class TextEncoder(Protocol):
    """Captions to `TextCondition`."""

    def __call__(self, captions: Sequence[str]) -> TextCondition: ...


@dataclass(frozen=True, eq=False)
class Parts:
    """How to make the parts of a base: nothing is read before it is called.

    Args:
        unet: a diffusers UNet2DConditionModel.
        autoencoder: `AutoencoderKL`-like, with `encode` and `decode` between [-1, 1] and unscaled latents.
        text: the text encoder.
        weights: every stored weight of autoencoder and text encoder, for the fingerprint.
    """

    unet: Callable[[], Any]
    autoencoder: Callable[[], Autoencoder]
    text: Callable[[], TextEncoder]
    weights: Callable[[], Mapping[str, Tensor]]


class Autoencoder(nn.Module):
    """diffusers' AutoencoderKL."""

    def __init__(self, kl: Any) -> None:
        super().__init__()
        self.kl = kl

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> the mean of the unscaled latents (B, C, h, w)."""
        return self.kl.encode(images).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        return self.kl.decode(latents).sample


class Base:
    """A frozen base model.

    Args:
        name: for messages: the file or folder.
        family: a key of `adapter.config.FAMILIES`.
        prediction: what the UNet predicts, "epsilon" or "v".
        alphas_cumprod: (T,) float32, the schedule it was trained with.
        context_width: W, the width of its text context.
        latent_channels: C.
        latent_scale: what the UNet sees is the autoencoder's latent times this.
        parts: see `Parts`.
        device: where parts are put.
    """

    def __init__(
        self,
        *,
        name: str,
        family: str,
        prediction: str,
        alphas_cumprod: Tensor,
        context_width: int,
        latent_channels: int,
        latent_scale: float,
        parts: Parts,
        device: torch.device,
    ) -> None:
        if prediction not in ("epsilon", "v"):
            raise PIDiffError(f"{name} predicts '{prediction}'. PIDiff trains on bases that predict epsilon or v.")
        self.name, self.family, self.prediction = name, family, prediction
        self.alphas_cumprod, self.context_width = alphas_cumprod, context_width
        self.latent_channels, self.latent_scale = latent_channels, latent_scale
        self.device, self._parts = device, parts

    @cached_property
    def unet(self) -> Any:
        """The UNet2DConditionModel, frozen."""
        return self._parts.unet().to(self.device)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder, frozen."""
        return self._parts.autoencoder().to(self.device)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, frozen."""
        return self._parts.text()

    def release(self, *names: str) -> None:
        """Forget loaded parts ("unet", "autoencoder", "text_encoder"): they load again on their next use."""
        for name in names:
            self.__dict__.pop(name, None)

    @torch.no_grad()
    def encode_images(self, images_bchw: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], multiples of 8 px -> latents (B, C, H/8, W/8) as the UNet sees them, float32."""
        check_shape(images_bchw, "B 3 H W", name="the images")
        weight = next(self.autoencoder.parameters())
        return self.autoencoder.encode(images_bchw.to(weight)).float() * self.latent_scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the UNet sees them -> (B, 3, 8h, 8w) in [-1, 1], float32."""
        weight = next(self.autoencoder.parameters())
        return self.autoencoder.decode((latents / self.latent_scale).to(weight)).float().clamp(-1, 1)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> TextCondition:
        """Captions -> their context (B, L, W) and, on XL, the pooled text (B, P)."""
        return self.text_encoder(captions)

    def size_conditions(
        self, size_px: tuple[int, int], *, original_px: tuple[int, int] | None = None, crop: tuple[int, int] = (0, 0)
    ) -> Tensor | None:
        """XL's six numbers, else None: original height and width, top and left of the crop, target height and width."""
        if self.family != "sdxl":
            return None
        return torch.tensor([*(original_px or size_px), *crop, *size_px], dtype=torch.float32)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        *,
        context: Tensor,
        pooled: Tensor | None = None,
        size_conditions: Tensor | None = None,
    ) -> Tensor:
        """The UNet's prediction (B, C, h, w), float32.

        Args:
            noisy: (B, C, h, w).
            timesteps: (B,).
            context: (B, L, W).
            pooled: (B, P) and
            size_conditions: (B, 6), both on XL only.
        """
        return predict(
            self.unet, noisy, timesteps, context=context, pooled=pooled, size_conditions=size_conditions
        ).float()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the autoencoder's and the text encoder's weights: what was cached with others is not valid."""
        return _hash(self._parts.weights().items())


def predict(
    unet: Any,
    noisy: Tensor,
    timesteps: Tensor,
    *,
    context: Tensor,
    pooled: Tensor | None = None,
    size_conditions: Tensor | None = None,
) -> Tensor:
    """`Base.predict` of a bare UNet."""
    dtype = unet.dtype
    added = None
    if pooled is not None:
        added = {"text_embeds": pooled.to(dtype), "time_ids": size_conditions}
    return unet(noisy.to(dtype), timesteps, context.to(dtype), added_cond_kwargs=added).sample


def schedule(*, beta_start: float = 0.00085, beta_end: float = 0.012, zero_snr: bool = False) -> Tensor:
    """alphas_cumprod (T,) of Stable Diffusion's scaled linear schedule.

    zero_snr: rescaled so that the last step is pure noise (Lin et al. 2023, "Common Diffusion Noise Schedules").
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, TRAIN_STEPS, dtype=torch.float64).square()
    alphas = (1 - betas).cumprod(0)
    if zero_snr:
        root = alphas.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alphas = root.square()
    return alphas.float()


def at_step(values: Tensor, timesteps: Tensor) -> Tensor:
    """Entries of a schedule (T,) at timesteps (B,), as (B, 1, 1, 1)."""
    return repeat(values.to(timesteps.device)[timesteps], "b -> b 1 1 1")


def _hash(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in sorted(weights, key=lambda item: item[0]):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
