"""Presets and factors of single sites."""

from __future__ import annotations

import pytest

from pidiff_core.adapter.presets import PRESETS, depths, site_factors
from pidiff_core.adapter.published import SITES as SD15
from pidiff_core.errors import PIDiffError

SDXL = (
    *(f"input.{number}.{index}" for number, layers in ((4, 2), (5, 2), (7, 10), (8, 10)) for index in range(layers)),
    *(f"middle.0.{index}" for index in range(10)),
    *(f"output.{number}.{index}" for number in (0, 1, 2) for index in range(10)),
    *(f"output.{number}.{index}" for number in (3, 4, 5) for index in range(2)),
)


def test_depth_runs_from_the_full_resolution_to_the_middle_in_both_halves():
    found = depths(SD15)
    assert found["input.1.0"] == found["output.11.0"] == 0.0
    assert found["input.8.0"] == found["middle.0.0"] == found["output.3.0"] == 1.0
    assert list(found) == list(SD15)


def test_all_layers_of_an_entry_have_its_depth():
    found = depths(SDXL)
    assert {found[f"input.8.{index}"] for index in range(10)} == {1.0}
    assert found["output.0.9"] == 1.0
    assert found["output.5.1"] == 0.0


@pytest.mark.parametrize(
    "names", [SD15, SDXL, ("middle.0.0",), ("output.2.0",)], ids=["SD 1.5", "SDXL", "one", "other"]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_factor_for_every_site_of_every_unet(preset, names):
    factors = site_factors(preset, names)
    assert list(factors) == list(names)
    assert all(0.0 <= factor <= 2.0 for factor in factors.values())


def test_the_first_preset_leaves_everything_as_it_was_trained():
    first = next(iter(PRESETS))
    assert set(site_factors(first, SD15).values()) == {1.0}
    assert (PRESETS[first].levels, PRESETS[first].start_percent, PRESETS[first].end_percent) == ({}, 0.0, 1.0)


def test_the_published_delay_is_a_preset():
    assert PRESETS["W+ Adapter"].start_percent == 0.2
    assert set(site_factors("W+ Adapter", SD15).values()) == {1.0}


def test_the_users_factors_multiply_and_the_most_exact_one_counts():
    factors = site_factors("portrait", SDXL, text="output = 0.5, output.3=2\nmiddle=0 input.8.3=0.25")
    assert factors["output.0.0"] == 0.5
    assert factors["output.3.1"] == 2.0
    assert factors["middle.0.7"] == 0.0
    assert factors["input.8.3"] == 0.25
    assert factors["input.8.2"] == 1.0
    style = site_factors("style transfer", SD15, text="output=0.5")
    assert style["output.11.0"] == 0.5 * site_factors("style transfer", SD15)["output.11.0"]


def test_a_number_is_not_the_beginning_of_another_one():
    assert site_factors("portrait", SD15, text="input.1=0")["input.2.0"] == 1.0
    with pytest.raises(PIDiffError, match=r"output\.1"):
        site_factors("portrait", SD15, text="output.1=0")  # SD 1.5 has output.10 and output.11, but nothing at output.1


@pytest.mark.parametrize(
    "text", ["middle", "middle=", "middle=x", "middle=nan", "middle=-1", "output=1e39", "=1", "nowhere=1", "input.0=1"]
)
def test_exception_what_sets_no_site(text):
    with pytest.raises(PIDiffError, match="site"):
        site_factors("portrait", SD15, text=text)


def test_exception_an_unknown_preset():
    with pytest.raises(PIDiffError, match="portrait"):
        site_factors("sculpture", SD15)
