"""Which number format a machine trains fastest in."""

from __future__ import annotations

import torch

from ..errors import PIDiffError
from ..precision import cpu_is_faster_in_bf16

PRECISIONS = ("auto", "bf16", "fp32")


def choose_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32" for "auto": what the device computes faster.

    Raises:
        PIDiffError: an unknown name.
    """
    if name not in PRECISIONS:
        raise PIDiffError(f"The precision is '{name}': expected one of {', '.join(PRECISIONS)}.")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if cpu_is_faster_in_bf16() else "fp32"
    return "fp32"
