"""An edited portrait back into its photo: which pixels change, and that the rest keep their bits."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.crop import COLOURS, align_face
from pidiff_core.face.landmark_input import landmarks_in_crop
from pidiff_core.face.paste import FacePlace, PasteOptions, paste_face

POINTS = torch.tensor([[80.0, 70.0], [120.0, 80.0], [96.0, 100.0], [78.0, 118.0], [108.0, 125.0]])  # a tilted face


@pytest.fixture(scope="module")
def photo():
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(180, 240), mode="bicubic").clamp(0, 1)
    return fine.permute(0, 2, 3, 1).contiguous()


def record(photo, **changes):
    aligned = align_face(photo, POINTS, size=128)
    return {
        "picture_sha256": "00",
        "crop_to_picture": aligned.inverse.tolist(),
        "crop_size": 128,
        "landmarks": aligned.landmarks.tolist(),
        "background": "white",
    } | changes


def portraits(colour=(0.2, -0.1, -0.4), *, side=64):
    """A plain head on white."""
    head = torch.ones(1, 3, side, side)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = ((x - side / 2) / (0.33 * side)) ** 2 + ((y - side / 2) / (0.42 * side)) ** 2 < 1
    return torch.where(inside, torch.tensor(colour).reshape(1, 3, 1, 1), head)


def paste(photo, after, before=None, *, place=None, mask=None, **options):
    before = portraits() if before is None else before
    place = place or FacePlace.from_record(record(photo))
    return paste_face(
        photo, place, before_bchw=before, after_bchw=after, options=PasteOptions(**options), mask_b1hw=mask
    )


@pytest.mark.parametrize("area", ["head", "whole crop"])
def test_without_an_edit_the_photo_keeps_every_bit(photo, area):
    pasted, mask = paste(photo, portraits(), area=area)
    assert torch.equal(pasted, photo)
    assert mask.max() > 0.9


@pytest.mark.parametrize("mode", ["keep details", "whole head"])
def test_outside_of_the_mask_every_bit_is_the_photo_s(photo, mode):
    pasted, mask = paste(photo, portraits((0.9, 0.4, 0.0)), mode=mode)
    outside = mask == 0.0
    assert 0.3 < outside.float().mean() < 0.95
    assert torch.equal(pasted[outside], photo[outside])
    assert (pasted - photo)[mask > 0.9].abs().mean() > 0.05
    assert 0.0 <= pasted.min() <= pasted.max() <= 1.0


def test_a_small_change_is_added_to_the_photo_s_own_details(photo):
    pasted, mask = paste(photo, portraits((0.3, -0.1, -0.4)), match_colour=False)
    middle = tuple(POINTS.mean(dim=0).round().int().tolist())
    change = (pasted - photo)[0, middle[1], middle[0]]
    torch.testing.assert_close(change, torch.tensor([0.05, 0.0, 0.0]), atol=2e-3, rtol=0)
    assert mask[0, middle[1], middle[0]] == 1.0


def test_a_large_change_replaces_the_photo(photo):
    pasted, _ = paste(photo, portraits((1.0, -1.0, -1.0)), match_colour=False)
    x, y = POINTS.mean(dim=0).round().int().tolist()
    torch.testing.assert_close(pasted[0, y, x], torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)


def test_the_white_around_a_smaller_head_does_not_come_into_the_photo(photo):
    dark = photo * 0.3
    small = torch.ones(1, 3, 64, 64)
    small[..., 8:56, 8:56] = portraits(side=48)
    pasted, mask = paste(dark, small, mode="whole head", area="whole crop", match_colour=False)
    changed = mask > 0.5
    # Nothing is lighter than the head's own lightest channel, 0.6, or the photo's own 0.3.
    assert pasted[changed].max() < 0.75
    with_white, _ = paste(
        dark, small, mode="whole head", area="whole crop", match_colour=False,
        place=FacePlace.from_record(record(photo, background="keep")),
    )  # fmt: skip
    assert with_white[changed].max() > 0.95, "a portrait with a background of its own is pasted whole"


def test_colours_are_those_of_the_photo_s_head(photo):
    target = portraits((0.2, -0.1, -0.4))
    greenish = photo * torch.tensor([0.5, 1.0, 0.5])
    matched, mask = paste(greenish, target, mode="whole head")
    plain, _ = paste(greenish, target, mode="whole head", match_colour=False)
    inside = mask > 0.95
    own = greenish[inside].mean(dim=0)
    assert (matched[inside].mean(dim=0) - own).abs().max() < 0.06
    assert (plain[inside].mean(dim=0) - own).abs().max() > 0.15


def test_the_user_s_mask_is_the_limit_and_feather_goes_inwards(photo):
    own = torch.zeros(1, 1, 180, 240)
    own[..., :, :100] = 1.0
    _, hard = paste(photo, portraits(), mask=own, feather=0.0, area="whole crop")
    _, soft = paste(photo, portraits(), mask=own, feather=0.2, area="whole crop")
    assert hard[0, :, 107:].max() == 0.0  # softened by 5 px of the crop
    assert soft[0, :, 107:].max() == 0.0
    assert hard[0, 100, 94] > 0.95
    assert soft[0, 100, 94] < 0.6


def test_a_portrait_may_be_larger_than_the_face(photo):
    large = torch.nn.functional.interpolate(portraits(), scale_factor=8)
    pasted, mask = paste(photo, large, before=large)
    assert torch.equal(pasted, photo)
    assert mask.max() > 0.95


def test_a_record_without_landmarks_or_background_is_read(photo):
    old = record(photo)
    del old["landmarks"], old["background"]
    place = FacePlace.from_record(old)
    assert place.background is None
    torch.testing.assert_close(place.landmarks, landmarks_in_crop(128))
    assert FacePlace.from_record(record(photo)).background == COLOURS["white"]


@pytest.mark.parametrize(
    "change",
    [
        {"crop_to_picture": [[1, 0], [0, 1]]},
        {"crop_to_picture": [[0, 0, 0], [0, 0, 0], [0, 0, 1]]},
        {"crop_to_picture": [[float("nan")] * 3] * 3},
        {"crop_size": 10**9},
        {"crop_size": "large"},
        {"landmarks": [[1, 2]]},
        {"landmarks": "none"},
    ],
)
def test_exception_a_damaged_record(photo, change):
    with pytest.raises(PIDiffError, match="record of their crop cannot be used"):
        FacePlace.from_record(record(photo, **change))


def test_exception_options_and_places(photo):
    with pytest.raises(PIDiffError, match="mode should be one of keep details, whole head"):
        PasteOptions(mode="blend")
    with pytest.raises(PIDiffError, match="feather should be a number from 0 to"):
        PasteOptions(feather=float("nan"))
    away = record(photo, crop_to_picture=[[1, 0, 5000], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(PIDiffError, match="outside of this photo of 240x180 px"):
        paste(photo, portraits(), place=FacePlace.from_record(away))
