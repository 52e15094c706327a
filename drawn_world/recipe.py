"""The whole recipe of the mini bundle, stage after stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pidiff_core.model import PIDiffModel

from .bundle import fitted_latent_rgb, save_base, save_identity, save_judge
from .data import rendered
from .parts import notes_of, take_part, version_of
from .portraits import SPACE, edit_directions
from .train import (
    JUDGE_WORLD,
    WORLD,
    autoencoder_stage,
    base_stage,
    cached_latents,
    detector_stage,
    encoder_stage,
    generator_stage,
    judge_stage,
    reconstructed,
)
from .train_adapter import extract_stage, identity_data, localise_stage, new_mini_adapter


@dataclass(frozen=True)
class Length:
    """How long a stage trains: optimiser steps, and the pictures (of the judge: people) of each."""

    steps: int
    batch: int


def run(
    folder: Path,
    target: Path,
    *,
    lengths: Mapping[str, Length],
    notes: dict[str, str],
    people: int | None = None,
    compiled: bool = True,
    parts: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train the missing stages and write the bundle.

    Args:
        folder: checkpoints; each stage continues from its own.
        target: the folder of the finished bundle.
        lengths: of each stage; one of no steps leaves its part as it is.
        notes: facts for the files' metadata.
        people: fewer drawn people, to try the recipe.
        compiled: torch.compile the two long stages (worth it from a few hundred steps on).
        parts: a folder of networks to continue from (`parts.py`).
    """
    notes = notes | {"parts": json.dumps(notes_of(parts))}
    length = {stage: {"steps": each.steps, "batch_size": each.batch} for stage, each in lengths.items()}
    world = WORLD if people is None else replace(WORLD, people=people)
    judge_world = JUDGE_WORLD if people is None else replace(JUDGE_WORLD, people=people)

    say(f"rendering {len(world)} drawn pictures, once")
    pictures = rendered(world, folder / "data")
    say("stage 1 of 8, autoencoder: pictures <-> latents")
    autoencoder = autoencoder_stage(
        pictures, folder / "autoencoder", **length["autoencoder"], compiled=compiled, parts=parts
    )
    made_of = f"{len(world)}-{version_of(autoencoder)}"  # what is cached belongs to one world and one autoencoder
    latents = cached_latents(pictures, autoencoder, folder / f"latents-{made_of}.pt")
    say("stage 2 of 8, base: captions -> latents")
    base = base_stage(
        pictures,
        latents,
        folder / "base",
        decode=autoencoder.decode,
        **length["base"],
        compiled=compiled,
        parts=parts,
    )
    say("stage 3 of 8, generator: W+ codes -> portrait")
    painter = generator_stage(pictures, folder / "generator", **length["generator"], parts=parts)
    say("stage 4 of 8, encoder: portrait -> W+ codes")
    reader = encoder_stage(pictures, painter, folder / "encoder", **length["encoder"], parts=parts)
    say("stage 5 of 8, detector: where is the drawn face")
    drawn = rendered(judge_world, folder / "data")
    shown = drawn  # without steps, both stages only take their parts
    if lengths["detector"].steps or lengths["judge"].steps:
        shown = reconstructed(drawn, autoencoder, folder / f"reconstructions-{made_of}.npy")
    detector = detector_stage(drawn, shown, folder / "detector", **length["detector"], parts=parts)
    say("stage 6 of 8, judge: who is it")
    judge = judge_stage(shown, folder / "judge", **length["judge"], parts=parts)
    adapter = new_mini_adapter(base)
    is_begun = take_part("adapter", adapter, folder=parts)
    if lengths["extract"].steps or lengths["localise"].steps:
        data = identity_data(
            base,
            pictures,
            latents,
            autoencoder=autoencoder,
            encoder=reader.encoder,
            path=folder / f"identity-{made_of}-{version_of(reader.encoder)}.pt",
        )
        if not is_begun:
            adapter.projection.code_std.copy_(data.code_std)
        say("stage 7 of 8, extract: the adapter on aligned heads")
        extract_stage(base, adapter, data, folder / "extract", **length["extract"])
        say("stage 8 of 8, localise: the adapter in whole pictures")
        localise_stage(base, adapter, data, folder / "localise", **length["localise"])
    sample = np.arange(0, min(len(world), 400), 2)
    latent_rgb = fitted_latent_rgb(latents[sample], pictures.image_batch(sample))
    save_base(target, base, autoencoder, latent_rgb=latent_rgb, notes=dict(notes))
    model = PIDiffModel(
        space=SPACE,
        latent_avg=reader.latent_avg,
        adapter=adapter.eval(),
        encoder=reader.encoder.eval(),
        generator=painter.generator,
        directions=edit_directions(painter.generator),
        crop_size=reader.encoder.config.image_size,
        detector=detector,
    )
    save_identity(target, model, notes=dict(notes))
    save_judge(target, judge, notes=dict(notes))
    say(f"the bundle is in {target}")
