"""The choice between float32 and bfloat16 on a CPU: by measured times."""

from __future__ import annotations

import pytest
import torch

from pidiff_core import precision


def clock(times):
    """A piece of work that takes these seconds, in order, in each type."""
    remaining = {dtype: iter(seconds) for dtype, seconds in times.items()}
    return lambda dtype: next(remaining[dtype])


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "faster"),
    [
        ((9, 2, 2, 2, 2), (9, 1, 1, 1, 1), True),  # half the time: an AMD EPYC
        ((9, 2, 2, 2, 2), (9, 3, 3, 3, 3), False),  # an Intel Xeon without AMX
        ((9, 2, 2, 2, 2), (9, 1.7, 1.7, 1.7, 1.7), False),  # not worth the rounding
        ((9, 2, 2, 2, 2), (9, 7, 7, 1, 7), True),  # disturbed by other programs, once not
        ((1, 2, 2, 2, 2), (9, 1, 1, 1, 1), True),  # the first one fills caches and does not count
        ((9, 7, 7, 2, 7), (1, 3, 3, 3, 3), False),
    ],
)
def test_the_best_times_decide(fp32_s, bf16_s, faster):
    assert precision.is_faster_in_bf16(clock({torch.float32: fp32_s, torch.bfloat16: bf16_s})) is faster


def test_this_processor_is_measured_once():
    seconds = {dtype: precision.convolution_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    assert all(0 < found < 10 for found in seconds.values())
    assert isinstance(precision.cpu_is_faster_in_bf16(), bool)
    assert precision.cpu_is_faster_in_bf16.cache_info().misses == 1


def test_the_measurement_leaves_the_processes_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        precision.convolution_seconds(torch.float32)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.rand(1), expected)
