"""Alignment against W+ Adapter's own `align_face`, given the same 68 landmarks.

data/alignment.json says where in the picture the published crop takes its pixels from; it holds no pixels but a sample
of one public-domain photo's. The last test looks at the photos themselves, where they are.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pidiff_core.face.crop import align_face
from pidiff_core.face.landmark_input import five_points
from pidiff_core.images import bchw_to_bhwc, load_image, transform_points
from tests.parity import cases
from tests.parity.seeded import sample

pytestmark = pytest.mark.parity
RECORD = json.loads((Path(__file__).parent / "data" / "alignment.json").read_text())
SIZE = 512
TOLERANCE = 2.0  # px of the crop
CORNERS_AND_CENTRE = torch.tensor(
    [[-0.5, -0.5], [SIZE - 0.5, -0.5], [SIZE - 0.5, SIZE - 0.5], [-0.5, SIZE - 0.5], [SIZE / 2 - 0.5, SIZE / 2 - 0.5]]
)


def landmarks(name):
    return five_points(cases.FACES[name].landmarks(name))


def published_map(name):
    """(3, 3): crop px -> picture px."""
    return torch.tensor([*RECORD["faces"][name]["crop_to_picture"], [0.0, 0.0, 1.0]])


@functools.cache
def cut(name):
    """Our crop of a picture whose values are its own coordinates, from -1 to 1 each, and its size (2) - 1."""
    width, height = cases.FACES[name].size
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    coordinates = bchw_to_bhwc(torch.stack([x, y, torch.zeros_like(x)])[None])
    aligned = align_face(coordinates, landmarks(name), size=SIZE)
    return aligned, torch.tensor([width - 1, height - 1])


@pytest.mark.parametrize("name", cases.FACES)
def test_corners_and_centre_come_from_the_published_places(name):
    aligned, _ = cut(name)
    in_picture = transform_points(published_map(name), CORNERS_AND_CENTRE)
    error = (transform_points(aligned.matrix, in_picture) - CORNERS_AND_CENTRE).norm(dim=1)
    print(f"{name}: {error.max():.4f} px")
    assert error.max() <= TOLERANCE


@pytest.mark.parametrize("name", cases.FACES)
def test_single_pixels_come_from_the_published_places(name):
    """Pixels of the published crop, wherever it shows some of the picture, against our matrix and our pixels."""
    aligned, extent = cut(name)
    columns, rows, *in_picture = torch.tensor(RECORD["faces"][name]["read"]).T
    wanted = torch.stack([columns, rows], dim=1)
    error = (transform_points(aligned.matrix, torch.stack(in_picture, dim=1)) - wanted).norm(dim=1)
    assert len(error) >= 9
    assert error.max() <= TOLERANCE

    shown = (aligned.image[0, :2, rows.long(), columns.long()].T + 1) / 2 * extent
    inside = (shown > 0.1 * extent).all(dim=1) & (shown < 0.9 * extent).all(dim=1)  # at its ends it is mirrored
    to_crop = torch.linalg.inv(published_map(name).double()).float()
    error = (transform_points(to_crop, shown) - wanted).norm(dim=1)[inside]
    assert len(error) >= 6
    assert error.max() <= TOLERANCE


def test_the_public_domain_photo_looks_like_the_published_crop(photo):
    crop = align_face(load_image(photo), landmarks("astronaut"), size=SIZE).image
    mine, published = torch.tensor(sample((crop + 1) * 127.5)), torch.tensor(RECORD["astronaut"]["sample"])
    difference = (mine - published).abs()
    assert difference.mean() < 1.0  # of 255
    assert difference.max() < 4.0


def test_the_public_domain_photo_is_cut_as_published(photo):
    """Pillow samples the photo by the recorded map, also two pixels aside: ours looks most like the one in place.

    Only what both show of the photo counts; beyond its border the published crop is black and ours is its mirror image.
    """
    crop = align_face(load_image(photo), landmarks("astronaut"), size=SIZE).image
    shifts = [(x, y) for x in (-2, 0, 2) for y in (-2, 0, 2)]
    with Image.open(photo) as picture:
        white = Image.new("RGB", picture.size, (255, 255, 255))
        published = {shift: _sampled(picture.convert("RGB"), published_map("astronaut"), shift) for shift in shifts}
        shown = torch.stack([_sampled(white, published_map("astronaut"), shift) for shift in shifts]).amin(dim=0) > 254
    errors = {shift: float(((crop + 1) * 127.5 - picture)[shown].abs().mean()) for shift, picture in published.items()}
    assert min(errors, key=errors.__getitem__) == (0, 0)


def _sampled(picture, crop_to_picture, shift):
    """(1, 3, 512, 512) in 0..255; Pillow counts from the corner of a pixel, the map from its centre."""
    moved = crop_to_picture.double() @ torch.tensor([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]]).double()
    moved[:2, 2] += 0.5 - moved[:2, :2].sum(dim=1) / 2
    coefficients = moved[:2].flatten().tolist()
    crop = picture.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float()
