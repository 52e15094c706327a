"""Matrix products on the CPU."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (n, i) times the transposed weight (o, i) -> (n, o), in float32 on a CPU through oneDNN where torch has it.

    `F.linear` asks MKL there, which takes up to a sixth longer on an AMD EPYC. torch has no public name for oneDNN's
    product; torch.compile calls it by this one. It has no derivative, so it serves in inference mode only.
    """
    if torch.compiler.is_compiling() or not (_HAS_ONEDNN and torch.is_inference_mode_enabled()):
        return F.linear(x, weight)
    if x.is_cpu and x.dtype == weight.dtype == torch.float32:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))
    return F.linear(x, weight)
