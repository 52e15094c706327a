"""Pictures: layouts, ranges, every kind of file that users have, and every kind that is broken."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pidiff_core.errors import PIDiffError
from pidiff_core.images import (
    bchw_to_bhwc,
    bhwc_to_bchw,
    check_image_bchw,
    check_image_bhwc,
    cut_bchw,
    image_from_pil,
    labelled_grid,
    load_image,
    pil_from_image,
    reduced_bchw,
    resize_bchw,
    transform_points,
)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_two_layouts_are_inverse():
    image = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    there = bhwc_to_bchw(image)
    assert there.shape == (2, 3, 5, 7)
    assert there[0, 1, 2, 3] == image[0, 2, 3, 1] * 2 - 1
    torch.testing.assert_close(bchw_to_bhwc(there), image)


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [0.25, 0.25, 0.25]), (3, [0.25, 0.25, 0.25]), (4, [0.8125, 0.8125, 0.8125])]
)
def test_grey_becomes_rgb_and_alpha_goes_over_white(channels, expected):
    image = torch.full((1, 2, 2, channels), 0.25)
    assert check_image_bhwc(image)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 2, 2, 2), "1, 3 or 4 channels"),
        (torch.zeros(1, 3, 8), "B H W C"),
        (torch.zeros(1, 0, 4, 3), "empty"),
        (torch.full((1, 2, 2, 3), float("nan")), "not finite"),
        (torch.full((1, 2, 2, 3), float("inf")), "not finite"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.uint8), "floats between 0 and 1"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.complex64), "floats between 0 and 1"),
        (torch.zeros(1, 2, 2, 3).to_sparse(), "floats between 0 and 1"),
        (torch.zeros(1, 2, 2, 3, device="meta"), "floats between 0 and 1"),
        ("a string", "str"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(PIDiffError, match=message):
        check_image_bhwc(image)


@pytest.mark.parametrize("image", [torch.zeros(1, 4, 2, 2), torch.zeros(3, 2, 2), torch.full((1, 3, 2, 2), torch.nan)])
def test_what_is_no_bchw_picture_is_refused(image):
    with pytest.raises(PIDiffError):
        check_image_bchw(image)


def test_values_out_of_range_are_clamped():
    assert check_image_bhwc(torch.tensor([[[[-1.0, 0.5, 9.0]]]])).flatten().tolist() == [0.0, 0.5, 1.0]


def test_resize_to_the_same_size_is_the_same_tensor():
    image = torch.rand(1, 3, 6, 6)
    assert resize_bchw(image, 6) is image
    assert resize_bchw(image, (3, 9)).shape == (1, 3, 3, 9)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGB", (3, 2), (255, 0, 51)), [1.0, 0.0, 0.2]),
        (Image.new("L", (3, 2), 51), [0.2, 0.2, 0.2]),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 51)), [0.8, 0.8, 0.8]),
        (Image.new("LA", (3, 2), (255, 0)), [1.0, 1.0, 1.0]),
        (Image.new("1", (3, 2), 1), [1.0, 1.0, 1.0]),
        (Image.fromarray(np.full((2, 3), 13107, dtype=np.uint16)), [0.2, 0.2, 0.2]),
        (Image.fromarray(np.full((2, 3), 0.2, dtype=np.float32)), [0.2, 0.2, 0.2]),
        (Image.new("P", (3, 2), 0), [0.0, 0.0, 0.0]),
        (Image.new("CMYK", (3, 2), (0, 0, 0, 0)), [1.0, 1.0, 1.0]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_pictures_of_every_mode_are_read(picture, expected):
    image = image_from_pil(picture)
    assert image.shape == (1, 2, 3, 3)
    torch.testing.assert_close(image[0, 0, 0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_exif_rotation_is_applied():
    picture = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert load_image(encoded(picture, "JPEG", exif=exif)).shape == (1, 4, 2, 3)


def test_a_picture_survives_the_way_through_pillow():
    picture = Image.effect_noise((9, 5), 60).convert("RGB")
    assert list(pil_from_image(image_from_pil(picture)).tobytes()) == list(picture.tobytes())


def test_a_file_and_its_bytes_give_the_same_picture(tmp_path):
    data = encoded(Image.effect_noise((9, 5), 60))
    (tmp_path / "a.png").write_bytes(data)
    assert torch.equal(load_image(tmp_path / "a.png"), load_image(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"<!doctype html><html></html>", "not a picture"),
        (encoded(Image.effect_noise((64, 64), 60))[:1500], "damaged or cut short"),
        (encoded(Image.effect_noise((64, 64), 60), "JPEG")[:700], "damaged or cut short"),
        (b"\x89PNG\r\n\x1a\n", "not a picture|damaged"),
    ],
)
def test_broken_files_are_named_and_refused(tmp_path, data, message):
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(PIDiffError, match=message) as caught:
        load_image(path)
    assert "photo.png" in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(PIDiffError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(PIDiffError, match="Cannot read"):
        load_image(tmp_path / "missing.png")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_pictures_of_every_float_type_become_float32(dtype):
    image = check_image_bhwc(torch.full((1, 2, 2, 3), 0.5).to(dtype))
    assert image.dtype == torch.float32
    assert image.unique().tolist() == [0.5]


def test_a_picture_that_is_right_is_not_copied():
    image = torch.rand(1, 8, 8, 3)
    assert check_image_bhwc(image) is image


def test_a_part_of_a_photo_is_cut_and_reduced_with_its_matrix():
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(120.0), indexing="ij")
    photo = torch.stack([columns / 120, rows / 120, torch.zeros_like(rows)], dim=-1)[None]
    for left, top, right, bottom, reduction in [(10, 20, 70, 60, 1.0), (-30, -5, 500, 44, 3.0), (60, 40, 61, 41, 9.0)]:
        part, to_photo = cut_bchw(photo, left=left, top=top, right=right, bottom=bottom, reduction=reduction)
        x, y = part.shape[3] // 2, part.shape[2] // 2
        seen = (part[0, :2, y, x] + 1) / 2 * 120
        torch.testing.assert_close(
            seen, transform_points(to_photo, torch.tensor([[float(x), float(y)]]))[0], atol=0.3, rtol=0
        )


def test_a_reduced_photo_has_the_side_that_was_asked_for():
    part, to_photo = reduced_bchw(torch.rand(1, 90, 300, 3), 100)
    assert part.shape == (1, 3, 30, 100)
    assert transform_points(to_photo, torch.tensor([[99.5, 29.5]]))[0].tolist() == pytest.approx([299.5, 89.5])
    part, to_photo = reduced_bchw(torch.rand(1, 90, 100, 3), 100)
    assert torch.equal(to_photo, torch.eye(3))


def test_a_grid_has_its_pictures_unchanged_and_a_label_for_each_row_and_column():
    pictures = torch.rand(6, 40, 60, 3)
    grid = labelled_grid(pictures, columns=["a", "b", "a"], rows=["first", "second"])
    band_px = 18
    assert grid.shape == (1, band_px + 2 * 40, band_px + 3 * 60, 3)
    for index, picture in enumerate(pictures):
        top, left = band_px + index // 3 * 40, band_px + index % 3 * 60
        assert torch.equal(grid[0, top : top + 40, left : left + 60], picture)
    above = grid[0, :band_px, band_px:].reshape(band_px, 3, 60, 3).unbind(dim=1)
    assert torch.equal(above[0], above[2])
    assert not torch.equal(above[0], above[1])
    # A row's label is read from the bottom to the top: turned back, it is the text of a column of that width.
    row = torch.rot90(grid[0, band_px : band_px + 40, :band_px], -1)
    upright = labelled_grid(torch.zeros(1, 60, 40, 3), columns=["first"], rows=[""])
    assert torch.equal(row, upright[0, :band_px])


def test_a_grid_without_labels_has_no_bands_and_long_labels_fit():
    assert torch.equal(labelled_grid(torch.ones(2, 8, 8, 3), columns=["", ""], rows=[""]), torch.ones(1, 8, 16, 3))
    long = labelled_grid(torch.zeros(1, 60, 100, 3), columns=["a direction with a long name"], rows=[""])
    inked = (long[0, :18] > 0.3).any(dim=0).any(dim=1)
    assert inked.any()
    assert not inked[:1].any()
    assert not inked[-1:].any()
    with pytest.raises(PIDiffError, match="3 pictures do not fill 2 rows of 2"):
        labelled_grid(torch.zeros(3, 8, 8, 3), columns=["a", "b"], rows=["c", "d"])
