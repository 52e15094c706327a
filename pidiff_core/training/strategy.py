"""The identity-tailored fine-tuning strategy: two stages over a frozen base (DESIGN: "Fine-tuning").

1. extract: aligned faces without background, a neutral caption; the noise loss counts on the face only. Projection and
   branches train.
2. localise: in-the-wild pictures with captions and face masks. The projection is frozen; the branches learn where the
   identity belongs, and to leave everything else as the base had it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.adapter import IdentityAdapter
from ..adapter.diffusers_processor import attach_identity
from .loop import Batch
from .losses import disentanglement_loss, face_noise_loss, kept_background_loss, localisation_loss


@dataclass(frozen=True)
class StrategyConfig:
    """Weights of the terms."""

    stage: str  # "extract" or "localise"
    outside: float = 0.1  # weight of the noise loss outside the face while localising (inside: 1)
    kept_background: float = 1.0
    disentanglement: float = 0.5
    localisation: float = 0.1
    exchanged: int = 8  # how many samples of a batch are also predicted with another's identity


class IdentityTraining(nn.Module):
    """An adapter on a frozen UNet, which stays outside the module's state."""

    def __init__(self, unet: nn.Module, adapter: IdentityAdapter, *, config: StrategyConfig) -> None:
        super().__init__()
        self.adapter = adapter
        self.config = config
        self.frozen = [unet.requires_grad_(False).eval()]  # in a list: not a submodule
        self.binding = attach_identity(unet, adapter)
        adapter.projection.requires_grad_(config.stage == "extract")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IdentityTraining:
        # `to` and `cpu` come through here: the base goes where the adapter goes.
        self.unet._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def unet(self) -> nn.Module:
        """The frozen base."""
        return self.frozen[0]


def strategy_loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss of either stage.

    noisy (B, 4, h, w), target (B, 4, h, w), timesteps (B,), context (B, L, W), offsets (B, S, D), mask (B, 1, h, w).
    """
    assert isinstance(module, IdentityTraining)
    config = module.config
    noisy, timesteps, context, mask = (batch[name] for name in ("noisy", "timesteps", "context", "mask"))
    tokens = module.adapter.projection(batch["offsets"])
    if config.stage == "extract":
        with module.binding.identity(tokens) as identity:
            prediction = module.unet(noisy, timesteps, context).sample.float()
        noise = face_noise_loss(prediction, batch["target"], mask=mask, outside=0.0)
        where = localisation_loss(identity.maps, mask=mask)
        return {"loss": noise + config.localisation * where, "noise": noise, "where": where}

    count = min(config.exchanged, len(noisy))
    with torch.no_grad():
        base = module.unet(noisy, timesteps, context).sample.float()
    with module.binding.identity(torch.cat([tokens, tokens.roll(1, dims=0)[:count]])) as identity:
        both = module.unet(
            torch.cat([noisy, noisy[:count]]),
            torch.cat([timesteps, timesteps[:count]]),
            torch.cat([context, context[:count]]),
        ).sample.float()
    prediction, exchanged = both.split([len(noisy), count])
    noise = face_noise_loss(prediction, batch["target"], mask=mask, outside=config.outside)
    kept = kept_background_loss(prediction, base, mask=mask)
    apart = disentanglement_loss(prediction[:count], exchanged, mask=mask[:count])
    where = localisation_loss({name: one[: len(noisy)] for name, one in identity.maps.items()}, mask=mask)
    loss = noise + config.kept_background * kept + config.disentanglement * apart + config.localisation * where
    return {"loss": loss, "noise": noise, "kept": kept, "apart": apart, "where": where}
