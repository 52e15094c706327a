"""Which face is meant: by size, by place, all of them."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.search import CHOICES, FaceChoice, FaceDetection

POINTS = torch.tensor([[-4.0, -4.0], [4.0, -4.0], [0.0, 0.0], [-3.0, 4.0], [3.0, 4.0]])


def face(x, y, size):
    corner = torch.tensor([x - size / 2, y - size / 2])
    return FaceDetection(torch.cat([corner, corner + size]), POINTS + torch.tensor([x, y]), 1.0)


A, B, C = face(200.0, 20.0, 30.0), face(20.0, 90.0, 50.0), face(100.0, 60.0, 20.0)  # in a picture of 220 x 120


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        ("largest first", [B, A, C]),
        ("left to right", [B, C, A]),
        ("top to bottom", [A, C, B]),
        ("centre first", [C, B, A]),
    ],
)
def test_faces_are_counted_in_every_order_from_both_ends(choose, expected):
    for index in (0, 1, 2, -1, -3):
        assert FaceChoice(choose, index).pick([A, B, C], (120, 220)) == [expected[index]]


def test_all_are_all_the_largest_first():
    assert FaceChoice("all", 7).pick([A, B, C], (120, 220)) == [B, A, C]


@pytest.mark.parametrize(("choose", "first"), [("largest first", "largest"), ("top to bottom", "topmost")])
def test_a_face_that_is_not_there_is_an_error_in_the_order_s_words(choose, first):
    with pytest.raises(PIDiffError, match=rf"Face 3 was asked for, but only 3 found \(0 is the {first}\)"):
        FaceChoice(choose, 3).pick([A, B, C], (120, 220))


def test_an_unknown_order_is_refused():
    with pytest.raises(PIDiffError, match=f"{', '.join(CHOICES)}, but 'by age'"):
        FaceChoice("by age")
