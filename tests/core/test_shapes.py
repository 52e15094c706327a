"""Shape checks: what matches, what binds, what the error says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.shapes import check_shape


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
