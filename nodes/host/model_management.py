"""PIDiff's networks under ComfyUI's model management: loaded for use, offloaded and freed when room is short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...pidiff_core.files.lazy import LazyNetwork
from ...pidiff_core.model import PIDiffModel
from ...pidiff_core.precision import cpu_is_faster_in_bf16

# What a network needs beside its weights: at most the 805 MB of a 1024 px portrait in float32, and the allocator's
# rounding. ComfyUI frees less than that on its own.
ACTIVATIONS = 1280 << 20  # bytes
PRECISIONS = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_device() -> torch.device:
    """The device of encoder and generator: ComfyUI's choice for VAEs, whose work is of the same kind and size."""
    if management.vram_state == management.VRAMState.NO_VRAM:
        return torch.device("cpu")  # --novram streams weights layer by layer, which only ComfyUI's own layers can
    return management.vae_device()


def precision_dtype(precision: str) -> torch.dtype:
    """One of PRECISIONS as a type.

    "auto" is on a CPU bfloat16 if that is faster there, otherwise float32; on a GPU the half precision that ComfyUI
    uses: bfloat16 before float16, whose range (65504) may be too small for the encoder's activations.
    """
    chosen = PRECISIONS[precision]
    if chosen is not None:
        return chosen
    device = load_device()
    if device.type == "cpu":
        return torch.bfloat16 if cpu_is_faster_in_bf16() else torch.float32
    if management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if management.should_use_fp16(device) else torch.float32


def place(network: nn.Module) -> Callable[[], None]:
    """Hand a network to ComfyUI; the returned call has it loaded, in front of everything that may be freed for it."""
    patcher = ModelPatcher(network, load_device=load_device(), offload_device=management.vae_offload_device())
    # Whole or not at all: the halves of a partly loaded network would be on two devices.
    return lambda: management.load_models_gpu([patcher], memory_required=ACTIVATIONS, force_full_load=True)


def managed(model: PIDiffModel) -> PIDiffModel:
    """The model with its encoder and its generator under ComfyUI's management."""

    def lazy(network: nn.Module | LazyNetwork | None) -> LazyNetwork | None:
        return LazyNetwork(lambda: network, place=place) if isinstance(network, nn.Module) else network

    return dataclasses.replace(model, encoder=lazy(model.encoder), generator=lazy(model.generator))
