"""PIDiff's networks under ComfyUI's model management: loaded for use, offloaded and freed when room is short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..pidiff_core.lazy import LazyNetwork
from ..pidiff_core.model import PIDiffModel

# What a network needs beside its weights: a portrait of 1024 px in float32 takes 805 MB, which is the most of them all.
# ComfyUI frees about as much unasked; more than that, for the allocator's rounding, has to be said.
ACTIVATIONS = 1280 << 20  # bytes
PRECISIONS = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_device() -> torch.device:
    """Where encoder and generator run: like a VAE, they turn pictures into codes and codes into pictures."""
    if management.vram_state == management.VRAMState.NO_VRAM:
        return torch.device("cpu")  # --novram streams weights layer by layer, which only ComfyUI's own layers can
    return management.vae_device()


def precision_dtype(precision: str) -> torch.dtype:
    """One of PRECISIONS as a type.

    "auto" is float32 on a CPU, and on a GPU the half precision that ComfyUI uses there: bfloat16 before float16, whose
    range (65504) nobody has proved to be enough for the encoder's activations.
    """
    chosen = PRECISIONS[precision]
    if chosen is not None:
        return chosen
    device = load_device()
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
