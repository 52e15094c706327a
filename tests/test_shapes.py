"""Shape checks: what matches, what binds, what the error says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.shapes import check_number, check_shape


@pytest.mark.parametrize(
    ("shape", "pattern", "bound"),
    [
        ((2, 18, 512), "B S 512", {"B": 2, "S": 18}),
        ((4, 4), "H H", {"H": 4}),
        ((7, 3, 9), "* 3 W", {"W": 9}),
        ((), "", {}),
    ],
)
def test_a_match_returns_what_the_letters_stand_for(shape, pattern, bound):
    assert check_shape(torch.zeros(shape), pattern, name="it") == bound
    assert check_shape(np.zeros(shape), pattern, name="it") == bound


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [((2, 18, 511), "B S 512"), ((4, 5), "H H"), ((3,), "A B"), ((3, 3, 3), "A A"), ((1,), "")],
)
def test_a_mismatch_restates_the_pattern_and_the_shape(shape, pattern):
    with pytest.raises(PIDiffError) as caught:
        check_shape(torch.zeros(shape), pattern, name="The codes")
    assert "The codes" in str(caught.value)
    assert f"({pattern})" in str(caught.value)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("value", [None, [1, 2], "text"])
def test_what_has_no_shape_is_an_error_too(value):
    with pytest.raises(PIDiffError, match=type(value).__name__):
        check_shape(value, "B", name="it")


@pytest.mark.parametrize("value", [0, 1, 0.5, -0.0])
def test_numbers_in_the_range_come_back(value):
    assert check_number(value, 0.0, 1.0, name="mix") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-9, 1.01, 10**400, "1", None, True, [1], "\ud83d"])
def test_other_numbers_are_named(value):
    with pytest.raises(PIDiffError, match="mix should be a number from 0 to 1, but it is '") as caught:
        check_number(value, 0.0, 1.0, name="mix")
    str(caught.value).encode()


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25)])
def test_numpy_numbers_are_numbers(value):
    assert check_number(value, 0.0, 1.0, name="mix") == 0.25


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3)])
def test_whole_numbers_come_back_as_int(value):
    found = check_number(value, 1, 5, name="steps", is_whole=True)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [2.5, float("nan"), float("inf"), 6, 0, True, "3", None])
def test_other_whole_numbers_are_named(value):
    with pytest.raises(PIDiffError, match="steps should be a whole number from 1 to 5, but it is '"):
        check_number(value, 1, 5, name="steps", is_whole=True)
