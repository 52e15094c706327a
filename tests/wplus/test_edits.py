"""Several edits as one JSON text, applied in a fixed order, and how far a direction can go."""

from __future__ import annotations

import json

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.wplus.calibration import MOST_UNITS, VISIBLE, measure_reach
from pidiff_core.wplus.codes import WPlus, WPlusSpace
from pidiff_core.wplus.direction_files import find_direction
from pidiff_core.wplus.directions import Direction, apply_direction, mix_levels
from pidiff_core.wplus.edits import Edits, PlainEdit

SPACE = WPlusSpace("test", 10, 8)
DIRECTIONS = {"smile": torch.ones(1, 8), "turn": torch.randn(10, 8, generator=torch.Generator().manual_seed(9))}


def person(seed=0, batch=1):
    return WPlus(torch.randn(batch, 10, 8, generator=torch.Generator().manual_seed(seed)), torch.zeros(10, 8), SPACE)


def find(name):
    return Direction(name, DIRECTIONS[name], SPACE)


def test_edits_are_the_mix_then_the_plain_direction_then_the_sliders():
    edits = Edits.from_json('{"directions": {"smile": 2, "turn": -0.5}, "mix": {"fine": 0.25, "coarse": 1}}')
    edited = edits.apply(person(), find=find, other=person(1), plain=PlainEdit(find("turn"), 3.0, ["medium"]))
    expected = mix_levels(person(), person(1), levels=["coarse"])
    expected = mix_levels(expected, person(1), levels=["fine"], amount=0.25)
    expected = apply_direction(expected, find("turn"), amount=3.0, levels=["medium"])
    expected = apply_direction(apply_direction(expected, find("smile"), amount=2), find("turn"), amount=-0.5)
    torch.testing.assert_close(edited.codes, expected.codes, rtol=0, atol=0)


def test_without_a_mix_the_plain_share_counts_and_with_one_it_does_not():
    plain = PlainEdit(levels=["medium"], share=0.5)
    mixed = Edits.from_json("").apply(person(), find=find, other=person(1), plain=plain)
    assert torch.equal(mixed.codes, mix_levels(person(), person(1), levels=["medium"], amount=0.5).codes)
    kept = Edits.from_json('{"mix": {}}').apply(person(), find=find, other=person(1), plain=plain)
    assert torch.equal(kept.codes, person().codes)


@pytest.mark.parametrize("text", ["", "  ", "{}", '{"directions": {"smile": 0}, "mix": {"coarse": 0}}'])
def test_no_edit_changes_no_bit(text):
    assert torch.equal(Edits.from_json(text).apply(person(), find=find, other=person(1)).codes, person().codes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smile", "should be JSON"),
        ("[1]", "object with 'directions' and 'mix'"),
        ('{"direction": {}}', "object with 'directions' and 'mix'"),
        ('{"directions": [1]}', "objects of names and numbers"),
        ('{"directions": {"smile": "2"}}', "amount of 'smile'.*from -20 to 20"),
        ('{"directions": {"smile": 21}}', "from -20 to 20"),
        ('{"directions": {"smile": NaN}}', "should be JSON"),
        ('{"directions": {"smile": true}}', "from -20 to 20"),
        ('{"mix": {"coarse": 1.5}}', "share of coarse.*from 0 to 1"),
        ('{"mix": {"skin": 1}}', "'skin'.*coarse, medium, fine"),
        (json.dumps({"directions": {str(index): 1 for index in range(65)}}), "at most 64"),
        ("[" * 5000, "should be JSON"),
        (" " * 20000, "at most 16384 characters"),
    ],
)
def test_what_is_no_edit_is_a_sentence(text, message):
    with pytest.raises(PIDiffError, match=message):
        Edits.from_json(text)


def picture(codes):
    """Each style is one row of 10 x 8 grey pixels."""
    return codes[:, None].expand(-1, 3, -1, -1)


def test_a_unit_is_a_clear_change_and_the_range_ends_at_the_distance_of_people():
    start = WPlus(torch.zeros(1, 10, 8), torch.zeros(10, 8), SPACE)
    vector = torch.zeros(10, 8)
    vector[3] = 0.04  # of a pixel's 2.0, in 8 pixels of the medium level; the 4 (5 %) that change most count
    reach = measure_reach(Direction("row", vector), start, draw=picture, typical=1000.0)
    assert reach is not None
    assert reach.level == "medium"
    assert reach.most == 20.0, "never more than the node allows"
    assert reach.unit == pytest.approx(VISIBLE * 2 / 0.04)
    near = measure_reach(Direction("row", vector * 100), start, draw=picture, typical=100.0)
    assert near is not None
    assert near.most == pytest.approx(70.0 / (4 * 8**0.5))
    assert near.unit == pytest.approx(near.most / MOST_UNITS), "visible at once: the range has MOST_UNITS units"


def test_a_direction_that_changes_nothing_has_no_reach():
    start = WPlus(torch.zeros(1, 10, 8), torch.zeros(10, 8), SPACE)
    assert measure_reach(Direction("none", torch.zeros(1, 8)), start, draw=picture, typical=1.0) is None
    flat = measure_reach(Direction("flat", torch.ones(1, 8)), start, draw=lambda codes: picture(codes) * 0, typical=1.0)
    assert flat is None


@pytest.mark.parametrize("name", ["Smile", "smile.npy", " SMILE ", "smile"])
def test_a_direction_is_found_without_case_and_suffix(name):
    assert find_direction(name, own=DIRECTIONS, space=SPACE, find_file=lambda _: None).name == "smile"


def test_the_nearest_name_is_suggested():
    with pytest.raises(PIDiffError, match=r"no direction 'smiel'\. Did you mean 'smile'"):
        find_direction("smiel", own=DIRECTIONS, space=SPACE, find_file=lambda _: None)
