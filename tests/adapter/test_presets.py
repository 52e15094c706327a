"""Presets and factors of single sites."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.presets import PRESETS, ApplyOptions, combine, depths, site_factors
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.errors import PIDiffError
from pidiff_core.files.foreign.wplus_adapter import SITES as SD15

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
    assert PRESETS["W+ Adapter"].skip_steps == 0.2
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


def config(**changes):
    return AdapterConfig(sites=tuple(SiteSpec(name, 32, 4) for name in SD15), num_styles=18, **changes)


def test_strength_level_and_preset_are_multiplied():
    options = ApplyOptions(strength=0.5, levels={"coarse": 0.2, "medium": 0.4, "fine": 0.6}, preset="likeness first")
    found = combine(options, config())
    expected = torch.tensor([0.5 * 0.2] * 4 + [0.5 * 0.4 * 1.3] * 4 + [0.5 * 0.6] * 10)
    torch.testing.assert_close(found.tokens, expected)
    four = combine(options, config(format="wplus-adapter", query="text")).tokens
    torch.testing.assert_close(four, torch.tensor([0.5 * 0.2, 0.5 * 0.4 * 1.3, 0.5 * 0.6, 0.5 * 0.6]))
    own = combine(ApplyOptions(preset="composition kept", site_strengths="output.11=0.5"), config()).sites
    assert (own["input.1.0"], own["middle.0.0"], own["output.11.0"]) == (1.0, 0.0, 0.5 * 1.2)


def test_the_narrower_range_counts_and_the_unconditional_half_is_the_formats():
    found = combine(ApplyOptions(start_percent=0.1, end_percent=0.9, preset="prompt first"), config())
    assert (found.start_percent, found.end_percent, found.skip_steps) == (0.2, 0.9, 0.0)
    assert combine(ApplyOptions(start_percent=0.6, preset="prompt first"), config()).start_percent == 0.6
    assert combine(ApplyOptions(preset="W+ Adapter"), config()).skip_steps == 0.2
    published = config(format="wplus-adapter", query="text")
    for unconditional, native, theirs in (
        ("auto", False, True),
        ("nothing", False, False),
        ("average person", True, True),
    ):
        options = ApplyOptions(unconditional=unconditional)
        assert (combine(options, config()).uncond_average, combine(options, published).uncond_average) == (
            native,
            theirs,
        )


@pytest.mark.parametrize(
    ("options", "is_zero"),
    [
        ({}, False), ({"strength": 0.0}, True), ({"levels": dict.fromkeys(("coarse", "medium", "fine"), 0.0)}, True),
        ({"start_percent": 0.5, "end_percent": 0.5}, True), ({"site_strengths": "input=0 middle=0 output=0"}, True),
        ({"site_strengths": "input=0 middle=0"}, False), ({"levels": {"fine": 0.0}}, False),
    ],
)  # fmt: skip
def test_what_adds_nothing_is_known_before_anything_is_folded(options, is_zero):
    assert combine(ApplyOptions(**options), config()).is_zero == is_zero


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strength": float("nan")}, "strength is nan"),
        ({"end_percent": float("inf")}, "end_percent is inf"),
        ({"levels": {"fine": float("nan")}}, "fine is nan"),
        ({"levels": {"rough": 1.0}}, "rough.*coarse"),
        ({"unconditional": "all"}, "unconditional 'all'.*average person"),
        ({"arrangement": "in a ring"}, "arrangement 'in a ring'.*left to right"),
        ({"preset": "sculpture"}, "sculpture.*portrait"),
    ],
)
def test_exception_options(options, match):
    with pytest.raises(PIDiffError, match=match):
        combine(ApplyOptions(**options), config())
