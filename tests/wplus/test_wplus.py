"""W+ codes as values: absolute and offset never confused, immutable, one space at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.wplus.codes import LEVELS, WPlus, WPlusSpace, levels

SPACE = WPlusSpace("test", num_styles=10, width=8)
AVERAGE = torch.linspace(-1, 1, 80).reshape(10, 8)


def codes(batch=2, seed=0):
    return torch.randn(batch, 10, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("num_styles", "coarse", "medium"), [(18, 4, 8), (16, 4, 7), (14, 3, 6), (10, 2, 4), (4, 1, 2)]
)
def test_levels_scale_with_the_number_of_styles(num_styles, coarse, medium):
    found = levels(num_styles)
    assert list(found) == list(LEVELS)
    assert [(part.start, part.stop) for part in found.values()] == [(0, coarse), (coarse, medium), (medium, num_styles)]


def test_a_space_with_too_few_styles_has_no_levels():
    with pytest.raises(PIDiffError, match="at least 4 styles"):
        levels(3)


def test_offsets_and_absolute_codes_are_two_views_of_the_same_value():
    absolute = WPlus(codes(), AVERAGE, SPACE)
    again = WPlus.from_offsets(absolute.offsets, AVERAGE, space=SPACE)
    torch.testing.assert_close(again.codes, absolute.codes)
    torch.testing.assert_close(absolute.offsets, codes() - AVERAGE)


def test_the_value_owns_its_numbers():
    mine = codes()
    value = WPlus(mine, AVERAGE, SPACE)
    mine.zero_()
    assert value.codes.abs().sum() > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.codes = mine  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_are_kept_as_float32(dtype):
    assert WPlus(codes().to(dtype), AVERAGE.to(dtype), SPACE).codes.dtype == torch.float32


@pytest.mark.parametrize(("index", "expected"), [(0, 0), (1, 1), (-1, 1)])
def test_select_gives_one_identity_as_a_batch_of_one(index, expected):
    value = WPlus(codes(), AVERAGE, SPACE, "two people")
    assert torch.equal(value.select(index).codes, codes()[expected][None])
    assert value.select(index).source == "two people"


def test_select_beyond_the_batch_is_an_error():
    with pytest.raises(PIDiffError, match=r"Identity 2 .* 2 in this batch"):
        WPlus(codes(), AVERAGE, SPACE).select(2)


def test_with_codes_leaves_the_old_value_alone():
    value = WPlus(codes(), AVERAGE, SPACE, "before", {"encoder": "e"})
    other = value.with_codes(codes(1, seed=1), source="after")
    assert (value.source, other.source, len(value), len(other)) == ("before", "after", 2, 1)
    assert other.origin == {"encoder": "e"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 9, 8), r"\(B 10 8\)"),
        (torch.zeros(10, 8), r"\(B 10 8\)"),
        (torch.zeros(0, 10, 8), "empty batch"),
        (torch.full((1, 10, 8), float("nan")), "not finite"),
    ],
)
def test_bad_codes_are_refused(bad, message):
    with pytest.raises(PIDiffError, match=message):
        WPlus(bad, AVERAGE, SPACE)


def test_two_spaces_are_told_apart():
    mine = WPlus(codes(), AVERAGE, SPACE)
    mine.require_same_space(WPlus(codes(seed=3), AVERAGE, WPlusSpace("test", 10, 8)))
    with pytest.raises(PIDiffError, match="two spaces"):
        mine.require_same_space(WPlus(codes(), AVERAGE, WPlusSpace("other", 10, 8)))
    with pytest.raises(PIDiffError, match="different average"):
        mine.require_same_space(WPlus(codes(), AVERAGE + 1, SPACE))
