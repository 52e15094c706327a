"""Photos, codes and edited codes to photos: which face goes where. With mini's own networks on drawn people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from drawn_world.drawn_person import DrawnPerson
from drawn_world.render import Scene, render
from pidiff_core.errors import PIDiffError, check_interrupted, register_host
from pidiff_core.face.landmark_input import read_landmarks
from pidiff_core.face.paste import PasteOptions
from pidiff_core.face.search import FaceChoice
from pidiff_core.images import load_image
from pidiff_core.mini.bundle import load_identity
from pidiff_core.pipeline import FaceOptions, encode_photos, paste_portraits
from pidiff_core.wplus.average import mean_code
from pidiff_core.wplus.directions import Direction, apply_direction


@pytest.fixture(scope="module")
def model():
    return load_identity()


@pytest.fixture(scope="module")
def two(model):
    """A photo with two drawn people side by side, their codes and where they are."""
    drawn = [render(DrawnPerson.sample(np.random.default_rng(seed)), Scene(), size=192) for seed in (2026, 3016)]
    photo = torch.cat([torch.from_numpy(one.image.copy()).float() / 255 for one in drawn], dim=1)[None]
    faces = [torch.from_numpy(one.landmarks.copy()) + torch.tensor([192.0 * i, 0.0]) for i, one in enumerate(drawn)]
    encoded = encode_photos(
        model, photo, FaceOptions(choice=FaceChoice("all")), landmarks=[landmark_input(faces)]
    )  # fmt: skip
    return photo, encoded


def landmark_input(faces):
    return read_landmarks([face.tolist() for face in faces], count=1, size=(192, 384))[0]


def edited(model, wplus, name="beard", amount=1.0):
    return apply_direction(wplus, Direction(name, model.directions[name], model.space), amount=amount)


def test_no_edit_gives_the_photo_back(model, two, photo):
    drawn, encoded = two
    pasted = paste_portraits(model, drawn, encoded.wplus, edited(model, encoded.wplus, amount=0.0), PasteOptions())
    assert torch.equal(pasted.images_bhwc, drawn)
    real = load_image(photo)
    codes = encode_photos(model, real, FaceOptions(), landmarks=None).wplus
    pasted = paste_portraits(model, real, codes, codes, PasteOptions(area="whole crop"))
    assert torch.equal(pasted.images_bhwc, real)


@pytest.mark.slow
def test_every_face_of_a_photo_changes_in_its_own_place(model, two):
    photo, encoded = two
    both = edited(model, encoded.wplus)
    codes = both.codes.clone()
    codes[0] = encoded.wplus.codes[0]
    one = dataclasses.replace(both, codes=codes)
    pasted = paste_portraits(model, photo, encoded.wplus, both, PasteOptions())
    second_only = paste_portraits(model, photo, encoded.wplus, one, PasteOptions())
    change = (second_only.images_bhwc - photo).abs()
    left_first = encoded.masks_bhw[0][:, :192].sum() > encoded.masks_bhw[0][:, 192:].sum()
    unchanged, changed = (slice(0, 192), slice(192, 384)) if left_first else (slice(192, 384), slice(0, 192))
    assert change[:, :, unchanged].max() == 0.0
    assert change[:, :, changed].max() > 0.1
    assert (pasted.images_bhwc - photo)[:, :, unchanged].abs().max() > 0.1
    assert torch.equal(pasted.images_bhwc[pasted.masks_bhw == 0], photo[pasted.masks_bhw == 0])
    # A mask for each face: black for the second, so nothing of it changes.
    masks = torch.stack([torch.ones(192, 384), torch.zeros(192, 384)])
    limited = paste_portraits(model, photo, encoded.wplus, one, PasteOptions(), mask_bhw=masks)
    assert torch.equal(limited.images_bhwc, photo)


def test_photos_in_another_order_are_recognised(model, two):
    photo, _ = two
    other = photo.flip(2).contiguous()
    joined = encode_photos(model, torch.cat([photo, other]), FaceOptions())
    after = edited(model, joined.wplus)
    straight = paste_portraits(model, torch.cat([photo, other]), joined.wplus, after, PasteOptions())
    turned = paste_portraits(model, torch.cat([other, photo]), joined.wplus, after, PasteOptions())
    assert torch.equal(straight.images_bhwc, turned.images_bhwc.flip(0))


def test_one_code_gives_a_picture_for_each_edit_and_for_each_photo(model, two):
    photo, encoded = two
    alone = encoded.wplus.select(0)
    assert len(alone.photos) == 1
    series = dataclasses.replace(
        alone, codes=torch.cat([edited(model, alone, amount=amount).codes for amount in (0.0, 0.5, 1.0)]), present=()
    )
    pasted = paste_portraits(model, photo, alone, series, PasteOptions())
    assert len(pasted.images_bhwc) == len(pasted.masks_bhw) == 3
    changes = (pasted.images_bhwc - photo).abs().mean(dim=(1, 2, 3))
    assert changes[0] == 0.0
    assert changes[0] < changes[1] < changes[2]
    mean = mean_code(encoded.wplus)
    both = paste_portraits(model, photo, mean, edited(model, mean), PasteOptions())
    change = (both.images_bhwc - photo).abs()
    assert min(change[:, :, :192].max(), change[:, :, 192:].max()) > 0.1, (
        "an average goes into every face it is made of"
    )


def test_a_photo_without_a_face_is_unchanged(model, two):
    photo, encoded = two
    absent = dataclasses.replace(encoded.wplus, present=(False, False))
    pasted = paste_portraits(model, photo, absent, edited(model, encoded.wplus), PasteOptions(mode="whole head"))
    assert torch.equal(pasted.images_bhwc, photo)
    assert pasted.masks_bhw.max() == 0.0


def test_exception_what_does_not_fit(model, two):
    photo, encoded = two
    wplus, options = encoded.wplus, PasteOptions()
    with pytest.raises(PIDiffError, match=r"Photo 0 \(384x192 px\) is not one .* \(those have 384x192 px\)"):
        paste_portraits(model, photo * 0.5, wplus, wplus, options)
    with pytest.raises(PIDiffError, match="record no photo"):
        paste_portraits(model, photo, dataclasses.replace(wplus, origin={}), wplus, options)
    with pytest.raises(PIDiffError, match="1 edited codes were given for 2 codes"):
        paste_portraits(model, photo, wplus, wplus.select(0), options)
    with pytest.raises(PIDiffError, match="3 masks were given for 1 photos with 2 faces"):
        paste_portraits(model, photo, wplus, wplus, options, mask_bhw=torch.ones(3, 192, 384))
    with pytest.raises(PIDiffError, match="has no generator"):
        paste_portraits(dataclasses.replace(model, generator=None), photo, wplus, wplus, options)


def test_progress_rises_and_an_interrupt_ends_it(model, two):
    photo, encoded = two
    steps: list[float] = []
    paste_portraits(model, photo, encoded.wplus, encoded.wplus, PasteOptions(), on_progress=steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0

    class Cancelled(BaseException):
        pass

    def cancel():
        raise Cancelled

    register_host(cancel, Cancelled)
    try:
        with pytest.raises(Cancelled):
            paste_portraits(model, photo, encoded.wplus, encoded.wplus, PasteOptions())
    finally:
        register_host(lambda: None)
    check_interrupted()
