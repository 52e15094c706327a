"""Landmarks as users write them, in every form that is taken."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.landmark_input import five_points, landmarks_in_box, landmarks_in_crop, parse_points

FIVE = "100,100 140,100 120,125 105,145 135,145"


@pytest.mark.parametrize(
    "text", [FIVE, FIVE.replace(" ", "\n"), FIVE.replace(",", " "), f"[{FIVE.replace(' ', '; ')}]", f" ({FIVE}) "]
)
def test_points_are_read_however_they_are_separated(text):
    assert parse_points(text)[4].tolist() == [135.0, 145.0]
    assert five_points(parse_points(text)).shape == (5, 2)


@pytest.mark.parametrize(
    ("text", "message"), [("a,b", "not numbers"), ("1,2,3", "cannot be split into pairs"), ("", "not numbers")]
)
def test_what_is_no_points_is_refused(text, message):
    with pytest.raises(PIDiffError, match=message):
        parse_points(text)


def test_a_box_holds_an_average_face():
    points = landmarks_in_box(torch.tensor([10.0, 20.0, 110.0, 140.0]))
    assert (points > torch.tensor([10.0, 20.0])).all()
    assert (points < torch.tensor([110.0, 140.0])).all()
    assert points[0, 0] < points[1, 0]
    assert points[2, 1] < points[3, 1]


def test_68_points_become_five():
    points = torch.randn(68, 2, generator=torch.Generator().manual_seed(0)) * 3
    points[36:42] += torch.tensor([100.0, 100.0])
    points[42:48] += torch.tensor([140.0, 100.0])
    points[48], points[54] = torch.tensor([105.0, 145.0]), torch.tensor([135.0, 145.0])
    five = five_points(points)
    torch.testing.assert_close(five[0], points[36:42].mean(dim=0))
    assert five[3].tolist() == [105.0, 145.0]
    assert torch.equal(five[2], points[30])


@pytest.mark.parametrize("number", [1, 3, 4, 6])
def test_other_numbers_of_points_are_refused(number):
    with pytest.raises(PIDiffError, match=f"{number} landmarks"):
        five_points(torch.rand(number, 2))


@pytest.mark.parametrize("box", [[10, 10, 5, 20], [0, 0, 2, 2], [0, 0, float("nan"), 10]])
def test_impossible_boxes_are_refused(box):
    with pytest.raises(PIDiffError, match="box"):
        landmarks_in_box(torch.tensor(box, dtype=torch.float32))


def test_the_average_face_of_a_crop_is_where_alignment_puts_it():
    from pidiff_core.face.crop import align_face

    points = landmarks_in_crop(64)
    aligned = align_face(torch.zeros(1, 64, 64, 3), points, size=64)
    torch.testing.assert_close(aligned.landmarks, points, atol=0.15, rtol=0)
