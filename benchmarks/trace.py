"""Operations of the hooks in one UNet evaluation, from torch's profiler, and their memory on a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.unet import CONTEXT_WIDTH, Hook, Patches, TextAttention

HOOK, TEXT = "identity hook", "text attention"
# Each of these makes the host wait for a device.
SYNCHRONISING = (
    "aten::_local_scalar_dense", "aten::nonzero",  # the former is what .item(), float() and bool() come down to
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMemcpyAsync",
)  # fmt: skip
PRODUCTS = ("aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm")


def trace_hooks(
    run: Callable[[Patches], Any], patches: Patches, *, text: TextAttention, path: Path | None = None
) -> dict[str, int]:
    """Profile `run(patches)` and count what happens inside the hooks, the text's attention apart.

    Args:
        text: the function that the hooks call for the text.
        path: where to write the trace for chrome://tracing or perfetto.

    Returns:
        hooks: calls of hooks; in them: synchronisations; conversions of type or device; resized maps; token_products,
        matrix products over the tokens' width, as in projecting the identity's keys and values. Beside them:
        synchronisations_elsewhere, the UNet's own and those of wrappers.
    """

    def marked(hook: Hook, *inputs: Any) -> Tensor:
        with record_function(HOOK):
            return hook(*inputs)

    def marked_text(attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        with record_function(TEXT):
            return attention(*args, **kwargs)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, record_shapes=True) as profiler, text.within(marked_text):
        run(patches.around(marked))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
    events = list(profiler.events() or [])
    inside = [event for event in events if _mark_above(event) == HOOK]
    return {
        "hooks": sum(event.name == HOOK for event in events),
        "synchronisations": sum(event.name in SYNCHRONISING for event in inside),
        "synchronisations_elsewhere": sum(
            event.name in SYNCHRONISING and _mark_above(event) is None for event in events
        ),
        "conversions": sum(event.name == "aten::_to_copy" for event in inside),
        "resized_maps": sum("upsample" in event.name for event in inside),
        "token_products": sum(
            event.name in PRODUCTS and any(CONTEXT_WIDTH in shape for shape in event.input_shapes) for event in inside
        ),
    }


def _mark_above(event: Any) -> str | None:
    """The nearest mark that an event is under."""
    parent = event.cpu_parent
    while parent is not None and parent.name not in (HOOK, TEXT):
        parent = parent.cpu_parent
    return None if parent is None else parent.name


def held_bytes(patches: Patches, device: torch.device) -> int:
    """Bytes of all tensors on a device that can be reached from the hooks: weights, folded sites, masks, caches.

    Whole storages count, once each, so that a small view of a large tensor is not taken for small.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    todo: list[Any] = list(patches.hooks.values())
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type(None))) or callable_code(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.device.type == device.type:
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, nn.Module):
            todo += [*thing.parameters(), *thing.buffers()]
        elif isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, (list, tuple, set, frozenset)):
            todo += thing
        else:
            todo += getattr(thing, "__dict__", {}).values()
    return sum(storages.values())


def callable_code(thing: Any) -> bool:
    """Functions, methods and classes: they hold code, not an identity."""
    return isinstance(thing, type) or hasattr(thing, "__code__") or hasattr(thing, "__func__")
