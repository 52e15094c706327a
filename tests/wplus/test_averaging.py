"""Several photos of one person: join, mean, outliers, walks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.wplus.average import find_outliers, interpolate, join_codes, mean_code
from pidiff_core.wplus.codes import WPlus, WPlusSpace

SPACE = WPlusSpace("test", 10, 8)


def people(*values, noise=0.0, space=SPACE):
    codes = torch.stack([torch.full((10, 8), float(value)) for value in values])
    codes = codes + noise * torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
    return WPlus(codes, torch.zeros(10, 8), space, "p")


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, 2.0), ([1, 1, 1], 2.0), ([1, 0, 0], 0.0), ([1, 1, 2], 2.75), ([0.5, 0, 0.5], 2.5)]
)
def test_the_mean_is_weighted(weights, expected):
    mean = mean_code(people(0, 1, 5), weights=weights)
    assert len(mean) == 1
    torch.testing.assert_close(mean.codes, torch.full((1, 10, 8), expected))


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(PIDiffError, match="weights"):
        mean_code(people(0, 1, 5), weights=weights)


def test_joining_keeps_the_order_and_the_space():
    joined = join_codes([people(1), people(2, 3)])
    assert joined.codes[:, 0, 0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(PIDiffError, match="two spaces"):
        join_codes([people(1), people(1, space=WPlusSpace("other", 10, 8))])
    with pytest.raises(PIDiffError, match="no codes"):
        join_codes([])


@pytest.mark.parametrize(
    ("values", "expected"), [((0, 0, 0, 9), (3,)), ((0, 0, 0, 0), ()), ((0, 9, 0), (1,)), ((0, 9), ()), ((4,), ())]
)
def test_the_photo_that_does_not_belong_is_found(values, expected):
    found = find_outliers(people(*values, noise=0.5))
    assert found.indices == expected
    lines = found.report().splitlines()
    assert len(lines) == len(values)
    assert [index for index, line in enumerate(lines) if "unlike" in line] == list(expected)


def test_five_different_people_have_no_outlier(reference_dir):
    from pidiff_core.wplus.code_files import load_codes

    space, average = WPlusSpace("ffhq-1024", 18), torch.zeros(18, 512)
    files = sorted((reference_dir / "wplus_codes").glob("*.pth"))
    joined = join_codes([load_codes(path, space=space, latent_avg=average) for path in files])
    assert find_outliers(joined).indices == ()
    assert mean_code(joined).codes.shape == (1, 18, 512)


def photographed(*names, present=None):
    """One code for each name; `present` as for a photo without a face."""
    who = people(*range(len(names)))
    origin = {"encoder": "mini", "photos": [{"picture_sha256": name} for name in names]}
    return dataclasses.replace(who, origin=origin, present=tuple(present or ()) or who.present)


def test_what_is_joined_averaged_or_walked_keeps_the_record_of_every_photo():
    joined = join_codes([photographed("a"), photographed("b", "c")])
    walk = interpolate(photographed("a"), photographed("b"), steps=2)
    for wplus, hashes in ((joined, "abc"), (mean_code(joined, weights=[1, 1, 2]), "abc"), (walk, "ab")):
        assert wplus.origin["encoder"] == "mini"
        assert [photo["picture_sha256"] for photo in wplus.origin["photos"]] == list(hashes)
    assert mean_code(joined, weights=[1, 1, 2]).origin["weights"] == [0.25, 0.25, 0.5]


def test_photos_without_a_face_do_not_count():
    joined = join_codes([people(5), photographed("a", "b", present=[False, True]), people(3, 3, 30)])
    assert joined.present == (True, False, True, True, True, True)
    mean = mean_code(joined)
    torch.testing.assert_close(mean.codes, torch.full((1, 10, 8), (5 + 1 + 3 + 3 + 30) / 5))
    assert mean.present == (True,)
    assert mean.origin["weights"] == [0.2, 0, 0.2, 0.2, 0.2, 0.2]
    found = find_outliers(joined)
    assert found.indices == (5,)
    assert found.report().splitlines()[1] == "photo 1: no face"
    none = mean_code(photographed("a", "b", present=[False, False]))
    assert none.present == (False,)
    assert find_outliers(photographed("a", "b", present=[False, False])).indices == ()


def test_a_walk_begins_and_ends_with_the_two_people():
    walk = interpolate(people(0), people(4), steps=5)
    assert walk.codes[:, 3, 2].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(PIDiffError, match="at least 2"):
        interpolate(people(0), people(4), steps=1)
    with pytest.raises(PIDiffError, match="2 and 1 were given"):
        interpolate(people(0, 1), people(4), steps=3)
