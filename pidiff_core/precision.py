"""Whether a CPU computes faster in bfloat16 than in float32: measured once in a process.

The processor's flags do not answer that. With the same instruction set (avx512_bf16), the e4e encoder takes half of
float32's time on an AMD EPYC and 1.4 times float32's time on an Intel Xeon without AMX. Processors without bfloat16
instructions emulate them and take 8 to 60 times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

ROUNDS = 4
WORTHWHILE = 0.8  # of float32's time: above it, bfloat16's rounding buys too little


@cache
def cpu_is_faster_in_bf16() -> bool:
    """Whether *auto* precision should be bfloat16 on this CPU; takes 30 to 200 ms the first time."""
    return is_faster_in_bf16(convolution_seconds)


def is_faster_in_bf16(seconds: Callable[[torch.dtype], float]) -> bool:
    """Whether bfloat16's best time is at most 0.8 of float32's, of four each in turn after one that fills caches.

    Args:
        seconds: what a piece of work takes in a type.
    """
    dtypes = (torch.float32, torch.bfloat16)
    best = dict.fromkeys(dtypes, float("inf"))
    for number in range(ROUNDS + 1):
        for dtype in dtypes:
            found = seconds(dtype)
            if number:
                best[dtype] = min(best[dtype], found)
    return best[torch.bfloat16] <= WORTHWHILE * best[torch.float32]


@torch.no_grad()
def convolution_seconds(dtype: torch.dtype) -> float:
    """Seconds of one convolution of the size that is most frequent in the e4e encoder's body, on the CPU."""
    x = torch.full((1, 256, 16, 16), 0.5, dtype=dtype, device="cpu")
    weight = torch.full((256, 256, 3, 3), 0.5, dtype=dtype, device="cpu")
    with torch.autocast("cpu", enabled=False):
        start = time.perf_counter()
        F.conv2d(x, weight, padding=1)
        return time.perf_counter() - start
