"""Memory for intermediate results that is kept from call to call.

What a process asks the system for anew, the system hands out page by page and cleared: in a virtual machine that takes
longer than the arithmetic on it.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor

KEPT_BYTES = 1 << 25  # of one buffer: what many pictures at once need more is given back


class Workspace(threading.local):
    """Named float32 buffers on the CPU, each thread's own."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Workspace, ()  # copies begin empty

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape. What was taken under the same name before is overwritten."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            with torch.inference_mode(False):  # else it could be written to in inference mode only
                buffer = torch.empty(size, dtype=torch.float32, device="cpu")
            if buffer.nbytes <= KEPT_BYTES:
                self._buffers[name] = buffer
        return buffer[:size].view(shape)
