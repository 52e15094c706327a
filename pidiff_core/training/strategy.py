"""The identity-tailored fine-tuning strategy: two stages over a frozen base (DESIGN: "Fine-tuning").

1. extract: aligned faces without background, a neutral caption; the noise loss counts on the face only. Projection and
   branches train.
2. localise: in-the-wild pictures with captions and face masks. The projection is frozen; the branches learn where the
   identity belongs, and to leave everything else as the base had it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..adapter.adapter import IdentityAdapter
from ..errors import PIDiffError
from .bases.base import at_step, predict
from .diffusers_processor import attach_identity
from .losses import (
    disentanglement_loss,
    face_noise_loss,
    kept_background_loss,
    localisation_loss,
    min_snr_weights,
)

Batch = dict[str, Tensor]
STAGES = ("extract", "localise")


@dataclass(frozen=True)
class StrategyConfig:
    """The terms of the loss and what is done to their inputs. Table [strategy]."""

    outside: float = 0.1
    """Weight of the noise loss outside the face while localising; inside it is 1."""
    kept_background: float = 1.0
    """Weight of: outside the face, the prediction equals the frozen base's."""
    disentanglement: float = 1.0
    """Weight of: outside the face, the prediction does not change with another identity."""
    localisation: float = 0.1
    """Weight of: 1 - p(null) at every site equals the face mask."""
    extra_fraction: float = 1.0
    """Share of the samples on which kept_background and disentanglement are computed; less is faster."""
    min_snr_gamma: float = 0.0
    """Min-SNR weighting of the noise loss (5 is usual); 0 = off."""
    noise_offset: float = 0.0
    """Standard deviation of a constant added to each channel of the noise; 0 = off."""
    drop_identity: float = 0.05
    """Share of the samples that get zero codes."""
    drop_text: float = 0.05
    """Share of the samples that get the empty caption."""
    drop_both: float = 0.05
    """Share of the samples that get both."""
    code_jitter: float = 0.0
    """Noise added to the codes, in standard deviations of the codes over people."""
    code_mirrored: float = 0.0
    """Share of the samples whose codes are read from the mirrored photo."""
    code_averaged: float = 0.0
    """Share of the samples whose codes are the mean of several photos of the person."""
    train_projection: bool = False
    """Train the projection while localising too; the method freezes it there."""
    swapped_levels: float = 0.5
    """Share of the exchanged identities that take only some levels (coarse, medium, fine) from the other person."""

    def __post_init__(self) -> None:
        shares = ("extra_fraction", "drop_identity", "drop_text", "drop_both", "code_mirrored", "code_averaged")
        for name in (*shares, "swapped_levels"):
            if not 0 <= getattr(self, name) <= 1:
                raise PIDiffError(f"strategy.{name} is {getattr(self, name)}: expected a share between 0 and 1.")
        for name in ("outside", "kept_background", "disentanglement", "localisation", "min_snr_gamma", "code_jitter"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PIDiffError(f"strategy.{name} is {getattr(self, name)}: expected a number of at least 0.")
        if self.drop_identity + self.drop_text + self.drop_both > 1:
            raise PIDiffError("strategy.drop_identity, drop_text and drop_both add up to more than 1.")


class IdentityTraining(nn.Module):
    """An adapter on a frozen UNet, which stays outside the module's state.

    Args:
        unet: diffusers' UNet2DConditionModel.
        adapter: what trains.
        stage: one of `STAGES`.
        config: the terms.
        prediction: what the UNet predicts, "epsilon" or "v".
        alphas_cumprod: (T,), the base's schedule.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: nn.Module,
        adapter: IdentityAdapter,
        *,
        stage: str,
        config: StrategyConfig,
        prediction: str,
        alphas_cumprod: Tensor,
    ) -> None:
        super().__init__()
        if stage not in STAGES:
            raise PIDiffError(f"The stage is '{stage}': expected one of {', '.join(STAGES)}.")
        self.adapter, self.stage, self.config = adapter, stage, config
        self.prediction = prediction
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        self.frozen = [unet.requires_grad_(False).eval()]  # in a list: not a submodule
        self.binding = attach_identity(unet, adapter)
        self.same_passes = False
        """Run the frozen passes also if no sample asks for them: a sharded UNet needs every process in every pass."""
        adapter.requires_grad_(True)
        adapter.projection.requires_grad_(stage == "extract" or config.train_projection)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IdentityTraining:
        # `to` and `cpu` come through here: the base goes where the adapter goes.
        self.unet._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def unet(self) -> Any:
        """The frozen base."""
        return self.frozen[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a (micro-)batch: its mean over the samples, and the mean of each term.

        Args:
            batch: clean and noise (B, C, h, w), timesteps (B,), context (B, L, W), mask (B, 1, h, w), codes (B, S, D)
                as the adapter's projection reads them; on XL pooled (B, P) and size_conditions (B, 6). While
                localising also other_codes (B, S, D) and extra_rows (k,), the samples of the extra terms, each of
                which stands for 1 / extra_fraction of them.
        """
        config, mask = self.config, batch["mask"]
        noisy, target = noised(
            batch["clean"],
            batch["noise"],
            timesteps=batch["timesteps"],
            alphas_cumprod=self.alphas_cumprod,
            prediction=self.prediction,
        )
        noise_weights = mask.new_ones(len(mask))
        if config.min_snr_gamma:
            noise_weights = min_snr_weights(
                self.alphas_cumprod, batch["timesteps"], gamma=config.min_snr_gamma, prediction=self.prediction
            )
        inputs = {name: batch[name] for name in ("timesteps", "context", "pooled", "size_conditions") if name in batch}
        localising = self.stage == "localise"
        # The frozen passes come first: what they need is gone when the pass with gradients begins.
        extras = self._frozen_predictions(noisy, inputs, batch) if localising else None
        with self.binding.identity(self.adapter.projection(batch["codes"])) as identity:
            prediction = predict(self.unet, noisy, **inputs).float()
        noise = face_noise_loss(prediction, target, mask=mask, outside=config.outside if localising else 0.0)
        noise = (noise_weights * noise).mean()
        terms = {"noise": noise}
        loss = noise
        if config.localisation and self.adapter.config.format == "pidiff":
            terms["where"] = localisation_loss(identity.maps, mask=mask).mean()
            loss = loss + config.localisation * terms["where"]
        if extras is not None:
            rows, base, exchanged = extras
            weight = len(batch["extra_rows"]) / len(rows) / (config.extra_fraction * len(mask))
            kept = kept_background_loss(prediction[rows], base, mask=mask[rows])
            apart = disentanglement_loss(prediction[rows], exchanged, mask=mask[rows])
            terms["kept"], terms["apart"] = weight * kept.sum(), weight * apart.sum()
            loss = loss + config.kept_background * terms["kept"] + config.disentanglement * terms["apart"]
        elif localising and config.extra_fraction and (config.kept_background or config.disentanglement):
            # None of these samples has them. The names stay, because each is reduced over all processes.
            terms["kept"] = terms["apart"] = torch.zeros_like(noise.detach())
        return {"loss": loss, **terms}

    @torch.no_grad()
    def _frozen_predictions(self, noisy: Tensor, inputs: Batch, batch: Batch) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows of the extra terms, the base's prediction for them, and the prediction with another identity."""
        if not self.config.extra_fraction or not (self.config.kept_background or self.config.disentanglement):
            return None
        rows = batch["extra_rows"]
        if not len(rows):
            if not self.same_passes:
                return None
            rows = rows.new_zeros(1)
        tokens = self.adapter.projection(batch["other_codes"][rows])
        on = torch.cat([torch.zeros_like(tokens[:, 0, 0]), torch.ones_like(tokens[:, 0, 0])])
        twice = {name: torch.cat([value[rows], value[rows]]) for name, value in inputs.items()}
        with self.binding.identity(torch.cat([tokens, tokens]), on=on):
            both = predict(self.unet, torch.cat([noisy[rows], noisy[rows]]), **twice).float()
        base, exchanged = both.chunk(2)
        return rows, base, exchanged


def strategy_loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`IdentityTraining.forward`, as the training loop calls it."""
    return module(batch)


def noised(
    clean: Tensor, noise: Tensor, *, timesteps: Tensor, alphas_cumprod: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """The noisy latents of clean ones (B, C, h, w) at timesteps (B,), and what the base should predict for them.

    v = alpha noise - sigma x_0 (Salimans and Ho 2022).
    """
    alphas = alphas_cumprod.to(clean.device)
    alpha, sigma = at_step(alphas.sqrt(), timesteps), at_step((1 - alphas).sqrt(), timesteps)
    noisy = alpha * clean + sigma * noise
    return noisy, noise if prediction == "epsilon" else alpha * noise - sigma * clean


def rearranged_levels(other: Tensor, own: Tensor, *, keep: Tensor, levels: dict[str, slice]) -> Tensor:
    """Another person's codes (B, S, D) with one's own at the levels that `keep` (B, 3) marks."""
    styles = torch.cat(
        [
            keep[:, index : index + 1].expand(-1, len(range(*level.indices(own.shape[1]))))
            for index, level in enumerate(levels.values())
        ],
        dim=1,
    )
    return torch.where(rearrange(styles, "b s -> b s 1").bool(), own, other)
