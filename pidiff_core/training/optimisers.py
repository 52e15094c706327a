"""Optimisers by name: torch's own, and those of packages that are installed on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ..errors import PIDiffError

# name -> (module, class, what to install, further arguments)
_PACKAGES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", {}),
    "paged-adamw8bit": ("bitsandbytes.optim", "PagedAdamW8bit", "bitsandbytes", {}),
    "adafactor": (
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    ),
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt", {"safeguard_warmup": True, "use_bias_correction": True}),
    "schedule-free": ("schedulefree", "AdamWScheduleFree", "schedulefree", {}),
}
OPTIMISERS = ("adamw", *_PACKAGES)
_WITHOUT_BETAS = ("adafactor",)
SHARDABLE = ("adamw", "schedule-free")
"""Those that compute on parameters which FSDP2 shares out over processes. The others fail at it (tried)."""


def make_optimiser(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """An optimiser of these parameters.

    Args:
        name: one of `OPTIMISERS`. Prodigy finds the rate itself: give it a learning rate of 1.

    Raises:
        PIDiffError: an unknown name, or its package is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    if name not in _PACKAGES:
        raise PIDiffError(f"The optimiser is '{name}': expected one of {', '.join(OPTIMISERS)}.")
    module, attribute, package, arguments = _PACKAGES[name]
    try:
        build: Callable[..., torch.optim.Optimizer] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise PIDiffError(
            f"The optimiser '{name}' needs the package {package}, which is not installed: pip install {package}"
        ) from error
    if name not in _WITHOUT_BETAS:
        arguments = arguments | {"betas": betas}
    return build(parameters, lr=learning_rate, weight_decay=weight_decay, **arguments)
