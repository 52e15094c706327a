"""Initial weights."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Gaussian numbers from the global generator, or nothing but the shape where modules are built on the meta device.

    There is nothing to draw there, and asking torch for it would import its symbolic mathematics: a second of loading.
    """
    weight = torch.empty(shape)
    return weight if weight.is_meta else weight.normal_(std=std)
