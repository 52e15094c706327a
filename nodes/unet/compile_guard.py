"""All that torch.compile needs from PIDiff.

A compiled UNet is code made for one situation: torch checks ("guards") that the situation is still the same, and makes
new code if it is not. Newer hosts let TorchCompileModel leave the transformer_options out of these checks, to be fast.
But identities are in there: a UNet that was compiled without one would go on without it. The names of a UNet's
arguments are always checked, and it takes any. So the wrapper around each evaluation adds an argument whose name is a
hash of everything that the compiled code depends on (`guard`).

Three more things keep a compiled UNet one graph, and they are done elsewhere: what hooks look up is made before the
UNet runs (`AppliedIdentity.prepare`), hooks get decisions and not noise levels (`UNetCall.acts`), and the sum of
`folding.add_attended` does not write through transposed views while it is being compiled.

A UNet that torch compiles in pieces all the same, as on a CPU, is beyond the hash: the argument belongs to the first
piece, and the others would be used with an identity and without one alike. Such a UNet runs uncompiled while it has an
identity (`evaluate`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from comfy.patcher_extension import WrappersMP

from ...pidiff_core.errors import PIDiffError
from .attn2_patch import SitePatch
from .run_state import RunState, UNetCall, warn_once

_in_pieces: WeakSet[Any] = WeakSet()  # the host's BaseModels

_COMPILED = "torch.compile"  # the host's name for its wrapper around a compiled UNet


def guard(unet: Any, options: Mapping[str, Any], named: dict[str, Any]) -> None:
    """Name what code compiled for this evaluation depends on, as a further argument of a compiled UNet.

    Args:
        unet: the host's BaseModel.
        options: the transformer_options of the evaluation, our RunState with its call in them.
        named: the keyword arguments of the evaluation; changed.
    """
    state = RunState.of(options)
    if state.call is None or not _is_compiled(unet, options):
        return
    others = _other_packs(state, state.call, options)
    if any(kind or heard for kind, heard in others):
        warn_once(
            "This model is compiled (torch.compile) and another pack shares cross-attentions with PIDiff. A change of "
            "the identity is noticed; a change inside the other pack's patch may not be. If the picture does not "
            "follow its settings, switch TorchCompileModel off."
        )
    key = (
        state.call.chunks,
        state.call.rows,
        state.call.pictures,
        state.call.num_rows,
        tuple(state.call.acts.items()),
        "optimized_attention_override" in options,
        tuple(identity.compile_key for identity in state.identities),
        others,
        None if state.arrangement is None else state.arrangement.compile_key,
        None if state.recorder is None else state.recorder.compile_key,
    )
    named[f"pidiff_{hash(key) % 2**64:016x}"] = True


def evaluate(unet: Any, options: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """`compute()`; uncompiled if torch compiles this UNet in pieces and it has an identity.

    Args:
        unet: the host's BaseModel.
        options: the transformer_options of the evaluation.
        compute: evaluates the UNet. It is called a second time if torch compiles it now and breaks it up.
    """
    state = RunState.of(options)
    if not state.identities or not _is_compiled(unet, options):
        return compute()
    if unet not in _in_pieces:
        breaks, maps = _graph_breaks(), copy.deepcopy((state.arrangement, state.recorder))
        result = compute()
        if _graph_breaks() == breaks:
            return result
        warn_once(
            "torch compiles this model in pieces (torch.compile), which cannot follow an identity: PIDiff evaluates it "
            "uncompiled while it has one. To save the time of compiling, take TorchCompileModel out."
        )
        _in_pieces.add(unet)
        torch.compiler.reset()  # the pieces of this evaluation hold the identity
        for kept, changed in zip(maps, (state.arrangement, state.recorder)):
            if changed is not None:
                vars(changed).update(vars(kept))
    if not hasattr(torch.compiler, "set_stance"):
        raise PIDiffError(
            f"torch compiles this model in pieces, which cannot follow an identity, and torch {torch.__version__} has "
            "no way to leave it uncompiled for a while: take TorchCompileModel out, or install torch 2.6 or newer."
        )
    with torch.compiler.set_stance("force_eager"):
        return compute()


def _is_compiled(unet: Any, options: Mapping[str, Any]) -> bool:
    # `OptimizedModule` by its name: to import torch's compiler takes seconds.
    by_host = _COMPILED in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return by_host or type(unet.diffusion_model).__name__ == "OptimizedModule"


def _graph_breaks() -> int:
    """How often torch has broken up a graph in this process."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())


def _other_packs(state: RunState, call: UNetCall, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """At each of our sites: the type of another pack's patch inside ours, and which callbacks are asked."""
    found: list[tuple[Any, ...]] = []
    there = options.get("patches_replace", {}).get("attn2", {})
    for key in state.keys:
        patch = there.get(key)
        if not isinstance(patch, SitePatch):  # another pack has replaced it
            found.append((type(patch), ()))
            continue
        heard = tuple(patch.in_range(call.noise_level, kwargs) for _, kwargs in patch.callbacks)
        found.append((None if patch.inner is None else type(patch.inner), heard))
    return tuple(found)
