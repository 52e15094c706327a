"""One person from 1 to 20 photos: the codes are refined within the known spread of their space, and a small low-rank
part of the adapter is trained with them.

The base model is asked for through `TunedModel`: `training.person_files` gives one of the trainer's own bases, the node
PIDiffTuneIdentity gives ComfyUI's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..adapter.adapter import IdentityAdapter
from ..adapter.refinement import low_rank_parameters, refinement_of, with_low_rank
from ..errors import PIDiffError, check_interrupted
from ..model import PIDiffModel
from ..wplus.average import mean_code
from ..wplus.codes import WPlus
from .losses import face_noise_loss, kept_background_loss, localisation_loss

MOST_PHOTOS = 20
_SPREAD_SAMPLES = 4096  # of the generator's mapping network, if the adapter does not know the spread
_LEVELS = 8  # noise levels at which the loss before and after is measured, the same ones both times


@dataclass(frozen=True)
class PersonOptions:
    """How one person is tuned. Table [person].

    Raises:
        PIDiffError: a number outside of its range.
    """

    photos: str = ""
    """Folder with 1 to 20 photos of the person."""
    out: str = "person.safetensors"
    """File for PIDiffLoadCodes."""
    adapter: str = ""
    """Adapter file; empty with the embedded base: the embedded adapter."""
    encoder: str = "mini"
    """File of the W+ encoder, or "mini" for the embedded one."""
    detector: str = "auto"
    """How the face is found: see prepare.detector."""
    yunet: str = ""
    """YuNet's weights file, for the detectors "yunet" and "auto"."""
    caption: str = "a photo of a person"
    """Caption of the photos that have no caption file."""
    steps: int = 150
    """Optimiser steps. More than about 500 learn the photos by heart."""
    batch_size: int = 2
    """Noise levels of one photo in a step."""
    rank: int = 4
    """Of the low-rank part; 0 refines the codes alone."""
    code_rate: float = 0.02
    """Learning rate of the codes, in standard deviations of the space."""
    adapter_rate: float = 1e-3
    """Learning rate of the low-rank part."""
    code_range: float = 1.0
    """The codes stay within so many standard deviations of what the encoder read."""
    outside: float = 0.05
    """Weight of the noise loss outside the face; inside it is 1."""
    kept_background: float = 1.0
    """Weight of: outside the face, the prediction equals the base's."""
    localisation: float = 0.05
    """Weight of: the localisation map equals the face's mask."""
    seed: int = 0
    """Of noise and order."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("rank", 0), ("code_range", 0.0), ("outside", 0.0)):
            if getattr(self, name) < least:
                raise PIDiffError(f"person.{name} is {getattr(self, name)}; it should be at least {least}.")


class Prediction(NamedTuple):
    """The base's answer to noisy photos."""

    predicted: Tensor  # (B, C, h, w)
    target: Tensor  # (B, C, h, w): what it should be
    mask: Tensor  # (B, 1, h, w) in [0, 1]: the face
    maps: dict[str, Tensor]  # site -> localisation map (B, N); empty without an identity


class TunedModel(Protocol):
    """A frozen base model with the photos of a person in its latent space.

    Attributes:
        photos: how many there are.
    """

    photos: int

    def predict(self, photo: int, levels: Tensor, *, noise_seed: int, tokens: Tensor | None) -> Prediction:
        """Noise one photo to B levels in [0, 1), 0 = clean, and let the base predict, with the identity's tokens
        (1, n, W) through the adapter that tunes, or without."""


class Step(NamedTuple):
    """Where a tuning is."""

    done: int
    steps: int
    loss: float
    tokens: Tensor  # (1, n, W): the identity as it is now, for a preview


@dataclass(frozen=True, eq=False)
class TunedPerson:
    """The result: codes with their refinement, and the loss on the face before and after at the same noise."""

    wplus: WPlus
    loss_before: float
    loss_after: float


class PersonTuning(nn.Module):
    """What trains: how far the codes move, and the low-rank part in a copy of the adapter.

    Args:
        adapter: stays as it is.
        wplus: codes of the photos (N, S, D).
        spread: (S, D), standard deviation of the space's codes: see `spread_of`.
        options: rank, range, seed.
    """

    def __init__(self, adapter: IdentityAdapter, wplus: WPlus, *, spread: Tensor, options: PersonOptions) -> None:
        super().__init__()
        self.original = [adapter]  # in a list: not a submodule
        self.mean = mean_code(wplus) if len(wplus) > 1 else wplus
        self.adapter = (
            with_low_rank(adapter, options.rank, seed=options.seed)
            if options.rank
            else with_low_rank(adapter, 1, seed=options.seed).requires_grad_(False)
        )
        self.options = options
        self.move = nn.Parameter(torch.zeros(self.mean.codes.shape))
        self.register_buffer("spread", spread[None].clone())
        codes = self.mean.offsets if adapter.config.format == "pidiff" else self.mean.codes
        self.register_buffer("start", codes.clone())

    def shift(self) -> Tensor:
        """(1, S, D): how far the codes are moved, never further than `code_range` standard deviations."""
        return self.options.code_range * self.spread * torch.tanh(self.move)

    def tokens(self) -> Tensor:
        """(1, n, W): the identity as it is now, with gradients."""
        return self.adapter.projection(self.start + self.shift())

    def result(self) -> WPlus:
        """The codes as they are now, with the refinement."""
        moved = self.mean.codes + self.shift().detach().cpu()
        refinement = refinement_of(self.adapter, self.original[0]) if self.options.rank else None
        source = f"{self.mean.source or 'codes'}, tuned for {self.options.steps} steps"
        return dataclasses.replace(self.mean, codes=moved, source=source, refinement=refinement)


def tune_person(
    tuning: PersonTuning, model: TunedModel, *, on_step: Callable[[Step], None] | None = None
) -> TunedPerson:
    """Train until `options.steps`.

    Args:
        tuning: on the device of the model.
        model: attached to `tuning.adapter`.
        on_step: called after each step; an exception of it stops the tuning.

    Raises:
        PIDiffError: no photos or more than 20, or the loss is not finite.
    """
    options = tuning.options
    if not 1 <= model.photos <= MOST_PHOTOS:
        raise PIDiffError(
            f"{model.photos} photos were given; a person is tuned from 1 to {MOST_PHOTOS}. For more photos, or more "
            "people, prepare them and train an adapter."
        )
    optimizer = torch.optim.AdamW(
        [
            {"params": [tuning.move], "lr": options.code_rate, "weight_decay": 0.0},
            *([{"params": low_rank_parameters(tuning.adapter), "lr": options.adapter_rate}] if options.rank else []),
        ],
        betas=(0.9, 0.99),
        weight_decay=0.01,
    )
    generator = torch.Generator().manual_seed(options.seed)
    before = _face_loss(tuning, model)
    for step in range(options.steps):
        check_interrupted()
        photo = step % model.photos
        levels = torch.rand(options.batch_size, generator=generator)
        seed = options.seed + 1 + step
        with torch.no_grad():
            base = model.predict(photo, levels, noise_seed=seed, tokens=None).predicted
        check_interrupted()
        seen = model.predict(photo, levels, noise_seed=seed, tokens=tuning.tokens())
        check_interrupted()
        loss = face_noise_loss(seen.predicted, seen.target, mask=seen.mask, outside=options.outside).mean()
        loss = loss + options.kept_background * kept_background_loss(seen.predicted, base, mask=seen.mask).mean()
        if options.localisation and tuning.adapter.config.format == "pidiff":
            loss = loss + options.localisation * localisation_loss(seen.maps, mask=seen.mask).mean()
        if not torch.isfinite(loss):
            raise PIDiffError(
                f"The loss is {float(loss.detach())} at step {step + 1}. Nothing was saved. Lower the learning rates "
                "(person.code_rate, person.adapter_rate) and run again."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(Step(step + 1, options.steps, float(loss.detach()), tuning.tokens().detach()))
    return TunedPerson(tuning.result(), before, _face_loss(tuning, model))


def spread_of(model: PIDiffModel) -> Tensor:
    """(S, D): the standard deviation of the codes of a space over people.

    A PIDiff adapter knows it from its training; otherwise the generator's mapping network is asked.

    Raises:
        PIDiffError: neither gives it.
    """
    adapter = model.require("adapter", purpose="to tune an identity")
    known = getattr(adapter.projection, "code_std", None)
    if known is not None and not torch.all(known == 1):
        return known.detach().float().cpu()
    if model.generator is None:
        raise PIDiffError(
            "The spread of the codes of this space is unknown, because neither the adapter nor a generator gives it. "
            "In Load PIDiff Model, choose an encoder file that contains its generator, such as e4e_ffhq_encode.pt."
        )
    generator = model.require("generator", purpose="to learn how far codes may move")
    weight = next(generator.parameters())
    z = torch.randn(_SPREAD_SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        std = generator.mapping(z.to(weight)).float().std(dim=0).cpu()
    return std.expand(model.space.num_styles, -1).clone()


@torch.no_grad()
def _face_loss(tuning: PersonTuning, model: TunedModel) -> float:
    """The noise loss on the faces at fixed noise."""
    levels = (torch.arange(_LEVELS) + 0.5) / _LEVELS
    total = 0.0
    for photo in range(model.photos):
        check_interrupted()
        seen = model.predict(photo, levels, noise_seed=photo, tokens=tuning.tokens())
        total += float(face_noise_loss(seen.predicted, seen.target, mask=seen.mask, outside=0.0).mean())
    return total / model.photos
