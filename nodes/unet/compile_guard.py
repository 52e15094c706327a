"""All that torch.compile needs from PIDiff.

A compiled UNet is code made for one situation: torch checks ("guards") that the situation is still the same, and makes
new code if it is not. Newer hosts let TorchCompileModel leave the transformer_options out of these checks, to be fast.
But identities are in there: a UNet that was compiled without one would go on without it. The names of a UNet's
arguments are always checked, and it takes any. So the wrapper around each evaluation adds an argument whose name is a
hash of everything that the compiled code depends on (`guard`).

Three more things keep a compiled UNet one graph, and they are done elsewhere: what hooks look up is made before the
UNet runs (`AppliedIdentity.prepare`), hooks get decisions and not noise levels (`UNetCall.acts`), and the sum of
`folding.add_attended` does not write through transposed views while it is being compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

from .attn2_patch import SitePatch
from .run_state import RunState, UNetCall, warn_once

_COMPILED = "torch.compile"  # the host's name for its wrapper around a compiled UNet


def guard(unet: Any, options: Mapping[str, Any], named: dict[str, Any]) -> None:
    """Name what code compiled for this evaluation depends on, as a further argument of a compiled UNet.

    Args:
        unet: the host's BaseModel.
        options: the transformer_options of the evaluation, our RunState with its call in them.
        named: the keyword arguments of the evaluation; changed.
    """
    # `OptimizedModule` by its name: to import torch's compiler takes seconds.
    by_host = _COMPILED in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    if not by_host and type(unet.diffusion_model).__name__ != "OptimizedModule":
        return
    state = RunState.of(options)
    if state.call is None:
        return
    warn_once(
        "This model is compiled (torch.compile). PIDiff tells the compiled UNet when an identity comes, goes or "
        "changes. That cannot reach code that torch has compiled in pieces, as it does on a CPU. If a picture does not "
        "follow a change, restart ComfyUI or switch TorchCompileModel off."
    )
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
