"""The host's wrappers that bring the RunState up to date: at the start of the sampler, and around each evaluation.

What is the same at every site is read here, once, so that a hook does not look up conditionings, wait for the device to
tell a noise level, or break up a compiled graph.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...pidiff_core.errors import listed
from .applied_identity import COND, UNCOND, AppliedIdentity, Area
from .batch_rows import pictures_of_noise
from .compile_guard import evaluate, guard
from .run_state import KEY, WHOLE, Arrangement, Conditioning, RunState, read_call, warn_once

_HALVES = {"positive": COND, "negative": UNCOND}  # a guider's further lists get no identity


def start_run(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any, **named: Any) -> Any:
    """Around the sampler, which the host calls with (guider, sigmas, extra_args, callback, noise ...)."""
    noise = named["noise"] if "noise" in named else rest[1]
    options = extra_args.setdefault("model_options", {}).setdefault("transformer_options", {})
    state = RunState.of(options)
    levels = sigmas.tolist()
    ranges = _sigma_ranges(guider.model_patcher.get_model_object("model_sampling"), state.identities, levels)
    _warn_of_empty_ranges(state.identities, ranges, levels[:-1])
    differs = any(identity.differs_by_picture for identity in state.identities)
    arrangement = state.arrange()
    options[KEY] = replace(
        state,
        conditionings=_read_conditionings(guider, noise.shape[-2:]),
        ranges=ranges,
        latent_shape=tuple(noise.shape),
        pictures=pictures_of_noise(noise, extra_args.get("seed")) if differs else None,
        arrangement=arrangement,
    )
    drawn = executor(guider, sigmas, extra_args, *rest, **named)
    if arrangement is not None:
        _warn_of_missing_faces(arrangement)
    return drawn


def begin_call(executor: Any, x: Tensor, *rest: Any, **named: Any) -> Any:
    """Around the host's apply_model, which takes (x, t, c_concat, c_crossattn, control, transformer_options, ...)."""
    position = 4  # of transformer_options in `rest`
    options = named.get("transformer_options") if len(rest) <= position else rest[position]
    if options:
        state = RunState.of(options)
        unet = executor.class_obj
        prompts = rest[2] if len(rest) > 2 else named.get("c_crossattn")
        call = read_call(options, state.identities, x_shape=x.shape, context_bld=prompts)
        for identity in state.identities:
            identity.prepare(
                x,
                rows=len(x) // len(call.chunks),
                dtype=unet.manual_cast_dtype or unet.get_dtype(),
                areas=[chunk.area for chunk in call.chunks],
                pictures=call.pictures,
            )
        options = {**options, KEY: replace(state, call=call)}
        guard(unet, options, named)
        if len(rest) > position:
            rest = (*rest[:position], options, *rest[position + 1 :])
        else:
            named["transformer_options"] = options
        return evaluate(unet, options, lambda: executor(x, *rest, **named))
    return executor(x, *rest, **named)


def _sigma_ranges(
    model_sampling: Any, identities: Sequence[AppliedIdentity], sigmas: Sequence[float]
) -> dict[int, tuple[float, float]]:
    """By an identity's order, its start and end as noise levels of a schedule, the lower one first.

    Args:
        model_sampling: the host's, which knows the schedule.
        identities: what to compute it for.
        sigmas: noise levels of the run, the last one (0) included.
    """
    ranges = {}
    for identity in identities:
        low = float(model_sampling.percent_to_sigma(identity.end_percent))
        high = float(model_sampling.percent_to_sigma(identity.start_percent))
        if identity.skip_steps and len(sigmas) > 1:
            first = math.floor(identity.skip_steps * (len(sigmas) - 1)) + 1
            high = min(high, sigmas[min(first, len(sigmas) - 1)])
        ranges[identity.order] = (low, high)
    return ranges


def _warn_of_empty_ranges(
    identities: Sequence[AppliedIdentity], ranges: dict[int, tuple[float, float]], steps: Sequence[float]
) -> None:
    for identity in identities:
        low, high = ranges[identity.order]
        if steps and not identity.is_always_on and not any(low <= sigma <= high for sigma in steps):
            warn_once(
                f"PIDiff: no identity in this picture. None of its {len(steps)} steps is between the start "
                f"({identity.start_percent:g}) and the end ({identity.end_percent:g}) of Apply Identity Adapter; "
                "presets have a start of their own. With few steps, set start_percent to 0 and preset to 'few steps'."
            )


def _warn_of_missing_faces(arrangement: Arrangement) -> None:
    """Not once only: whether it is true depends on what was drawn."""
    people, split = arrangement.split_pictures
    if split:
        logging.getLogger("PIDiff").warning(
            "PIDiff: %d people, but fewer faces side by side (picture %s): two people share a face. Write 'two people' "
            "in the prompt and make the picture wider, or give each half its own prompt, as in the workflow "
            "pidiff_two_people; or connect a mask to each Apply Identity Adapter.",
            people,
            listed(split),
        )


def _read_conditionings(guider: Any, size: Sequence[int]) -> dict[Any, Conditioning]:
    """By the host's uuid: what each of the guider's conditionings is for."""
    read: dict[Any, Conditioning] = {}
    conds: dict[str, list[dict[str, Any]]] = getattr(guider, "conds", None) or {}
    for role, entries in conds.items():
        for number, cond in enumerate(entries):
            if cond.get("uuid") in read:  # the host fills up regional prompts with copies that keep the name
                entries[number] = cond = {**cond, "uuid": uuid.uuid4()}
            read[cond.get("uuid")] = Conditioning(_HALVES.get(role), _area(cond.get("area"), size))
    return read


def _area(area: Sequence[int] | None, size: Sequence[int]) -> Area:
    """The host's (height, width, top, left) in latent pixels -> top, left, bottom, right in [0, 1]."""
    if area is None or len(area) != 4:
        return WHOLE
    height, width, top, left = area
    bottom, right = min(1.0, (top + height) / size[0]), min(1.0, (left + width) / size[1])
    return top / size[0], left / size[1], bottom, right
