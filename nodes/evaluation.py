"""What is the same at every site: read once at the start of a run, and once at each evaluation of the UNet.

Both are the host's wrappers, so that nothing in a site's hook looks up conditionings, waits for the device to tell a
noise level, or breaks up a compiled graph. Where a UNet is called without its sampler, the hook reads for itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .identity import COND, Area
from .watch import WATCH_KEY, Watch, identities_of, patches_in

if TYPE_CHECKING:
    from .site_patch import SitePatch

NOTES_KEY = "pidiff_conds"  # in transformer_options: {uuid of a conditioning: CondNote}
EVALUATION_KEY = "pidiff_evaluation"  # in transformer_options: an Evaluation
COMPILED = "torch.compile"  # the host's name for its wrapper around a compiled UNet
WHOLE = (0.0, 0.0, 1.0, 1.0)


class CondNote(NamedTuple):
    """What the sampler's start knows of a conditioning, and an evaluation does not.

    Args:
        is_positive: whether it is among the guider's positive ones.
        area: the part of the picture that it is computed on: top, left, bottom, right in [0, 1].
    """

    is_positive: bool
    area: Area = WHOLE


class Evaluation(NamedTuple):
    """One call of the UNet.

    Args:
        chunks: what each chunk of the batch is computed for.
        acts: by an identity's order, whether it acts at this noise level. Hooks do not compare noise levels themselves:
            a compiled graph would be made again for each side of each comparison.
        noise_level: sigma, for other packs' callbacks; None where there are none, or where it is not known.
    """

    chunks: tuple[CondNote, ...]
    acts: Mapping[int, bool]
    noise_level: float | None


def evaluation_of(options: Mapping[str, Any], patches: Iterable[SitePatch]) -> Evaluation:
    """What the host's transformer_options say of an evaluation to some patches.

    The host's own numbers of the halves count the guider's lists: DualCFG lists its negatives first, and SAG runs the
    negative alone, as number 0. Where the sampler's start has left notes, they decide.
    """
    numbers: Sequence[int] = options.get("cond_or_uncond") or [COND]
    uuids: Sequence[Any] = options.get("uuids") or []
    notes: Mapping[Any, CondNote] = options.get(NOTES_KEY) or {}
    if len(uuids) != len(numbers):
        uuids = [None] * len(numbers)
    chunks = tuple(notes.get(name) or CondNote(number == COND) for number, name in zip(numbers, uuids))
    patches = list(patches)
    identities = identities_of(patches)
    sigmas: Tensor | None = options.get("sigmas")
    heard = any(patch.callbacks for patch in patches)
    asked = heard or not all(identity.always for identity in identities)
    level = float(sigmas.flatten()[0]) if asked and sigmas is not None else None
    acts = {identity.order: identity.acts_at(level) for identity in identities}
    return Evaluation(chunks, acts, level if heard else None)


def note_evaluation(executor: Any, x: Tensor, *rest: Any, **named: Any) -> Any:
    """Around the host's apply_model, which takes (x, t, c_concat, c_crossattn, control, transformer_options, ...)."""
    place = 4  # of transformer_options in `rest`
    options = named.get("transformer_options") if len(rest) <= place else rest[place]
    if options:
        patches = patches_in(options)
        read = evaluation_of(options, patches)
        unet = executor.class_obj
        for identity in identities_of(patches):
            identity.prepare(
                x,
                rows=len(x) // len(read.chunks),
                dtype=unet.manual_cast_dtype or unet.get_dtype(),
                areas=[note.area for note in read.chunks],
            )
        if patches and COMPILED in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
            named[f"pidiff_{hash(_structure(patches, read, options)) % 2**64:016x}"] = True
        options = {**options, EVALUATION_KEY: read}
        if len(rest) > place:
            rest = (*rest[:place], options, *rest[place + 1 :])
        else:
            named["transformer_options"] = options
    return executor(x, *rest, **named)


def _structure(patches: Sequence[SitePatch], evaluation: Evaluation, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a compiled UNet's code depends on, of all that we put into it.

    Newer hosts let TorchCompileModel forget what the code was made for, as far as it lies in transformer_options: a
    UNet that was compiled without an identity, or before its range, then runs on as it was. The names of a UNet's
    arguments are not forgotten, and it takes any.
    """
    watch: Watch | None = options.get(WATCH_KEY)
    return (
        evaluation.chunks,
        tuple(evaluation.acts.items()),
        "optimized_attention_override" in options,
        tuple(identity.structure for identity in identities_of(patches)),
        tuple(patch.structure(evaluation.noise_level) for patch in patches),
        None if watch is None else watch.structure,
    )


def note_conds(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any, **named: Any) -> Any:
    """Before the sampler runs, which takes (guider, sigmas, extra_args, callback, noise ...): note of every
    conditioning what `CondNote` holds, and of the run what `watch.Watch` does."""
    noise = named["noise"] if "noise" in named else rest[1]
    notes: dict[Any, CondNote] = {}
    conds: dict[str, list[dict[str, Any]]] = getattr(guider, "conds", None) or {}
    for role, listed in conds.items():
        for number, cond in enumerate(listed):
            if cond.get("uuid") in notes:  # the host fills up regional prompts with copies that keep the name
                listed[number] = cond = {**cond, "uuid": uuid.uuid4()}
            notes[cond.get("uuid")] = CondNote(role == "positive", _area(cond.get("area"), noise.shape[-2:]))
    options = extra_args.setdefault("model_options", {}).setdefault("transformer_options", {})
    options[NOTES_KEY] = notes
    watch = Watch(options)
    if not watch.is_idle:
        options[WATCH_KEY] = watch
    return executor(guider, sigmas, extra_args, *rest, **named)


def _area(area: Sequence[int] | None, size: Sequence[int]) -> Area:
    """The host's (height, width, top, left) in latent pixels -> top, left, bottom, right in [0, 1]."""
    if area is None or len(area) != 4:
        return WHOLE
    height, width, top, left = area
    bottom, right = min(1.0, (top + height) / size[0]), min(1.0, (left + width) / size[1])
    return top / size[0], left / size[1], bottom, right
