"""Alignment: the FFHQ recipe against a plain twin, the inverse, borders, sizes, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from pidiff_core.errors import PIDiffError
from pidiff_core.face.crop import align_face, crop_mask, ffhq_quad, paste_mask, whole_photo
from pidiff_core.images import bchw_to_bhwc, image_from_pil, load_image, pil_from_image, transform_points, warp

FRONTAL = torch.tensor([[100.0, 100.0], [140.0, 100.0], [120.0, 125.0], [105.0, 145.0], [135.0, 145.0]])


def smooth_picture(height=240, width=320, seed=0):
    """image_bhwc without detail finer than the resampling: colours that vary slowly."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return bchw_to_bhwc(torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic"))


def turned(points, degrees, scale=1.0, shift=(0.0, 0.0)):
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    matrix = scale * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    centre = points.mean(dim=0)
    return (points - centre) @ matrix.T + centre + torch.tensor(shift)


def recipe(picture, points, size):
    """The published recipe in Pillow and NumPy, for one picture (H, W, 3) of 8 bits: quad, padding, QUAD transform."""
    ndimage = pytest.importorskip("scipy.ndimage")
    points = points.double().numpy()
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    across, down = points[1] - points[0], mouth - eyes
    x = across - np.array([-down[1], down[0]])
    x = x / np.hypot(*x) * max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    y = np.array([-x[1], x[0]])
    centre = eyes + down * 0.1
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    side = np.hypot(*x) * 2
    border = max(round(side * 0.1), 3)
    bounds = [*np.floor(quad.min(axis=0)).astype(int), *np.ceil(quad.max(axis=0)).astype(int)]
    bounds = [max(bounds[0] - border, 0), max(bounds[1] - border, 0), bounds[2] + border, bounds[3] + border]
    part = picture[bounds[1] : bounds[3], bounds[0] : bounds[2]].astype(np.float64)
    quad = quad - bounds[:2]
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    height, width = part.shape[:2]
    pads = [
        max(border - low[0], 0),
        max(border - low[1], 0),
        max(high[0] - width + border, 0),
        max(high[1] - height + border, 0),
    ]
    if max(pads) > border - 4:
        left, top, right, bottom = (max(pad, round(side * 0.3)) for pad in pads)
        part = np.pad(part, ((top, bottom), (left, right), (0, 0)), "reflect")
        height, width = part.shape[:2]
        rows, columns = np.ogrid[:height, :width]
        outside = np.maximum(
            1 - np.minimum(columns / left, (width - 1 - columns) / right),
            1 - np.minimum(rows / top, (height - 1 - rows) / bottom),
        )[..., None]
        blurred = ndimage.gaussian_filter(part, [side * 0.02, side * 0.02, 0])
        part += (blurred - part) * np.clip(outside * 3 + 1, 0, 1)
        part += (np.median(part, axis=(0, 1)) - part) * np.clip(outside, 0, 1)
        quad += np.array([left, top])
    image = Image.fromarray(np.clip(np.rint(part), 0, 255).astype(np.uint8))
    fine = image.transform(
        (size * 4, size * 4), Image.Transform.QUAD, (quad + 0.5).flatten(), Image.Resampling.BILINEAR
    )
    return fine.resize((size, size), Image.Resampling.LANCZOS)


def test_the_quad_of_an_upright_face():
    quad = ffhq_quad(FRONTAL)
    # eyes 40 px apart, mouth 45 px below them: half a side is max(2 * 40, 1.8 * 45) = 81 px around (120, 104.5)
    expected = torch.tensor([[39.0, 23.5], [39.0, 185.5], [201.0, 185.5], [201.0, 23.5]])
    torch.testing.assert_close(quad, expected)


@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -135])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_landmarks_come_to_the_same_place_however_the_face_lies(degrees, scale):
    picture = smooth_picture()
    points = turned(FRONTAL, degrees, scale, shift=(30, 5))
    expected = align_face(picture, FRONTAL, size=64).landmarks
    torch.testing.assert_close(align_face(picture, points, size=64).landmarks, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("points", "what"),
    [
        (turned(FRONTAL, 12, shift=(40, 20)), "inside"),
        (turned(FRONTAL, -30, 0.3, shift=(60, 30)), "small"),
        (turned(FRONTAL, 5, shift=(-70, -60)), "cut by the corner"),
        (turned(FRONTAL, 0, 1.4, shift=(40, 20)), "larger than the picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_crops_equal_the_published_recipe(points, what):
    picture = pil_from_image(smooth_picture())
    crop = align_face(image_from_pil(picture), points, size=96).image
    expected = np.asarray(recipe(np.asarray(picture), points, 96), dtype=np.float32)
    mine = np.asarray(pil_from_image(bchw_to_bhwc(crop)), dtype=np.float32)
    assert np.abs(mine - expected).mean() < 1.0  # of 255; a shift by one crop pixel would be about 2 to 4
    assert np.abs(mine - expected).max() < 12.0


@pytest.mark.parametrize("factor", [1, 3, 9])
def test_large_pictures_are_reduced_without_a_shift(factor):
    """The same scene at several resolutions gives the same crop."""
    small, points = smooth_picture(), turned(FRONTAL, 12, shift=(30, 10))
    large = rearrange(small, "b h w c -> b c h w")
    large = torch.nn.functional.interpolate(large, scale_factor=factor, mode="bilinear")
    large = rearrange(large, "b c h w -> b h w c")
    crop = align_face(large, (points + 0.5) * factor - 0.5, size=48).image
    expected = align_face(small, points, size=48).image
    assert float((crop - expected).abs().max()) < 0.03


def test_the_matrix_leads_to_the_crop_and_the_inverse_back():
    aligned = align_face(smooth_picture(), turned(FRONTAL, 25), size=96)
    points = torch.tensor([[10.0, 20.0], [100.0, 50.0]])
    torch.testing.assert_close(transform_points(aligned.inverse, transform_points(aligned.matrix, points)), points)
    corners = transform_points(aligned.matrix, ffhq_quad(turned(FRONTAL, 25)))
    torch.testing.assert_close(
        corners, torch.tensor([[-0.5, -0.5], [-0.5, 95.5], [95.5, 95.5], [95.5, -0.5]]), atol=1e-3, rtol=0
    )


def test_a_mask_goes_there_and_comes_back():
    picture = smooth_picture()
    aligned = align_face(picture, turned(FRONTAL, 25, shift=(40, 10)), size=128)
    mask = torch.zeros(1, 1, 240, 320)
    mask[..., 90:150, 120:200] = 1.0
    there = crop_mask(mask, aligned.matrix, crop_size=aligned.size_px, size=(240, 320))
    assert there.shape == (1, 1, 128, 128)
    back = paste_mask(there, aligned, size=(240, 320))
    inner, outer = back[..., 95:145, 125:195], back.clone()
    outer[..., 85:155, 115:205] = 0.0
    assert float(inner.min()) > 0.9
    assert float(outer.max()) < 0.1


@pytest.mark.parametrize("size", [16, 700])
def test_pasting_keeps_the_area_whatever_the_crops_size(size):
    aligned = align_face(smooth_picture(), turned(FRONTAL, 10, shift=(40, 20)), size=size)
    pasted = paste_mask(torch.ones(1, 1, size, size), aligned, size=(240, 320))
    assert float(pasted.sum()) == pytest.approx(162.0**2, rel=0.05)


def test_warp_by_the_identity_is_the_picture():
    picture = rearrange(smooth_picture(20, 30), "b h w c -> b c h w")
    torch.testing.assert_close(warp(picture, torch.eye(3), (20, 30)), picture, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (120, 200), (200, 120), (33, 20)])
def test_a_whole_picture_is_its_central_square(height, width):
    aligned = whole_photo(smooth_picture(height, width), size=64)
    side = min(height, width)
    corner = transform_points(aligned.inverse, torch.tensor([[-0.5, -0.5]]))[0]
    assert corner.tolist() == pytest.approx([(width - side) // 2 - 0.5, (height - side) // 2 - 0.5], abs=1e-3)
    assert aligned.image.shape == (1, 3, 64, 64)


def test_a_one_pixel_picture_can_be_aligned_too():
    points = FRONTAL - FRONTAL.mean(dim=0)
    assert align_face(torch.zeros(1, 1, 1, 3), points, size=32).image.isfinite().all()


@pytest.mark.parametrize(
    ("picture", "points", "message"),
    [
        (torch.zeros(2, 64, 64, 3), FRONTAL, "one photo at a time"),
        (torch.zeros(1, 64, 64, 3), FRONTAL + 500, "outside of the photo of 64x64"),
        (torch.zeros(1, 64, 64, 3), FRONTAL * 1e5, "up to 1.45e.07 px away from the picture"),
        (torch.zeros(1, 64, 64, 3), FRONTAL[:4], r"\(5 2\)"),
        (torch.zeros(1, 64, 64, 3), FRONTAL * float("nan"), "not finite"),
        (torch.zeros(1, 64, 64, 3), FRONTAL * 0, "not a face"),
        (torch.zeros(1, 64, 64, 4), FRONTAL, r"\(B H W 3\)"),
    ],
)
def test_bad_input_is_refused(picture, points, message):
    with pytest.raises(PIDiffError, match=message):
        align_face(picture, points, size=32)


@pytest.mark.parametrize(
    ("top", "left", "height", "width"),
    [(0, 0, 512, 512), (95, 120, 250, 250), (40, 150, 150, 150)],
    ids=["off-centre", "cut by the top border", "filling the photo"],
)
def test_a_real_photo_follows_the_published_recipe_too(photo, top, left, height, width):
    points = torch.tensor([[205.0, 102.0], [247.0, 104.0], [225.0, 129.0], [202.0, 139.0], [245.0, 142.0]])
    points = points - torch.tensor([left, top])
    image = load_image(photo)[:, top : top + height, left : left + width]
    crop = align_face(image, points, size=256).image
    expected = image_from_pil(recipe(np.asarray(pil_from_image(image)), points, 256)).permute(0, 3, 1, 2) * 2 - 1
    mean = float((crop - expected).abs().mean())
    shifted = float((crop[..., 1:] - expected[..., :-1]).abs().mean())
    assert mean < 0.5 * shifted  # nearer than a shift by one pixel of 256


def test_a_photo_of_many_megapixels_is_cut_like_a_small_one():
    """The part that the crop needs is cut out first and then reduced: to a pixel of the crop the same."""
    small = smooth_picture(300, 400)
    large = rearrange(small, "b h w c -> b c h w")
    large = torch.nn.functional.interpolate(large, scale_factor=9, mode="bilinear")
    large = rearrange(large, "b c h w -> b h w c")
    for points in (turned(FRONTAL, 12, shift=(30, 60)), turned(FRONTAL, 5, shift=(-70, -60))):  # inside; at the border
        crop = align_face(large, (points + 0.5) * 9 - 0.5, size=64).image
        assert float((crop - align_face(small, points, size=64).image).abs().mean()) < 0.01


def test_a_mask_is_pasted_in_bands_of_rows_as_at_once():
    aligned = align_face(smooth_picture(700, 400), turned(FRONTAL, 25, 3.0, shift=(60, 230)), size=64)
    mask = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    pasted = paste_mask(mask, aligned, size=(700, 400))
    torch.testing.assert_close(pasted, warp(mask, aligned.matrix, (700, 400)), atol=1e-4, rtol=0)
