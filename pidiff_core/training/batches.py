"""From prepared data to what the strategy's loss reads: noise, time steps, dropout and augmentation of a step.

Everything random about a step is drawn for its whole global batch from the seed and the step alone, and each process
takes its rows: the data, their order and the noise are the same for every number of processes and after every resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapter.config import AdapterConfig
from ..wplus.codes import levels
from .loop import Share
from .strategy import Batch, StrategyConfig, rearranged_levels

_LEVELS = 3
WHOLE = Share()


@dataclass(frozen=True, eq=False)
class BatchMaker:
    """Makes the batches of one stage.

    Args:
        data: `PreparedData`, or what has its `batch`, `null_text`, `latent_avg` and `code_std`.
        stage: "extract" or "localise".
        config: dropout and augmentation.
        adapter: whose input convention the codes follow: offsets, or absolute codes for W+ Adapter's format.
        size: samples of an optimiser step, over all processes and accumulation steps.
        seed: of everything random.
        train_steps: T of the base's schedule.
    """

    data: Any
    stage: str
    config: StrategyConfig
    adapter: AdapterConfig
    size: int
    seed: int
    train_steps: int = 1000

    def __call__(self, step: int, share: Share = WHOLE) -> Batch:
        """Rows [part * size / parts, (part + 1) * size / parts) of a step's batch."""
        config, rows = self.config, self._rows(share)
        data = self._read(step, share)
        rng = np.random.default_rng([self.seed, 1, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        shape = data.latents.shape[1:]

        def drawn(*tail: int) -> Tensor:
            return torch.randn((self.size, *tail), generator=generator)[rows]

        noise = drawn(*shape)
        if config.noise_offset:
            noise = noise + config.noise_offset * drawn(shape[0], 1, 1)
        timesteps = torch.randint(0, self.train_steps, (self.size,), generator=generator)[rows]
        dropped = torch.from_numpy(rng.random(self.size))[rows]
        no_identity = dropped < config.drop_identity + config.drop_both
        no_text = (dropped >= config.drop_identity) & (
            dropped < config.drop_identity + config.drop_both + config.drop_text
        )
        average = self._average()
        codes = data.codes.float()
        if config.code_jitter:
            codes = codes + config.code_jitter * self.data.code_std * drawn(*codes.shape[1:])
        codes = torch.where(no_identity[:, None, None], torch.zeros(()), codes + average)
        context = _replaced(data.context.float(), no_text, self.data.null_text.context)
        batch = {
            "clean": data.latents.float(),
            "noise": noise,
            "timesteps": timesteps,
            "context": context,
            "codes": codes,
            "mask": data.face_mask.float(),
        }
        if data.pooled is not None:
            batch["pooled"] = _replaced(data.pooled.float(), no_text, self.data.null_text.pooled)
            batch["size_conditions"] = data.size_conditions.float()
        if self.stage == "localise":
            keep = torch.from_numpy(rng.random((self.size, _LEVELS)) < 0.5)
            keep &= torch.from_numpy(rng.random((self.size, 1)) < config.swapped_levels)
            other = data.other_codes.float() + average
            if codes.shape[1] >= 4:
                other = rearranged_levels(other, codes, keep=keep[rows], levels=levels(codes.shape[1]))
            batch["other_codes"] = other
            chosen = samples_of_extra_terms(step, size=self.size, fraction=config.extra_fraction)
            batch["extra_rows"] = chosen[rows].nonzero()[:, 0]
        return batch

    def files(self, step: int) -> list[str]:
        """Names of the photos in a step's batch."""
        return list(self._read(step, WHOLE).files)

    def _rows(self, share: Share) -> slice:
        rows = self.size // share.parts
        return slice(share.part * rows, (share.part + 1) * rows)

    def _read(self, step: int, share: Share) -> Any:
        return self.data.batch(
            step,
            self.size,
            seed=self.seed,
            kind="aligned" if self.stage == "extract" else "wild",
            rank=share.part,
            world=share.parts,
            averaged=self.config.code_averaged,
            mirrored=self.config.code_mirrored,
        )

    def _average(self) -> Tensor:
        """What is added to offsets: W+ Adapter's projection reads absolute codes, the native one offsets."""
        if self.adapter.format == "pidiff":
            return torch.zeros(())
        return self.data.latent_avg.float()


def samples_of_extra_terms(step: int, *, size: int, fraction: float) -> Tensor:
    """(size,) bool: the samples of a step's batch on which the extra terms are computed.

    They are spread evenly over all samples of a run, so that after any number of steps their share is `fraction`.
    """
    number = step * size + torch.arange(size, dtype=torch.float64)
    return ((number + 1) * fraction).floor() > (number * fraction).floor()


def _replaced(values: Tensor, dropped: Tensor, null: Tensor | None) -> Tensor:
    """Rows of (B, ...) exchanged for the one row of `null` (1, ...)."""
    if null is None:
        return values
    return torch.where(dropped.reshape(-1, *[1] * (values.ndim - 1)), null.float(), values)
