"""What is read off portraits, with landmarks that are known."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.face.measure import MEASURES, PARSED_MEASURES, measure_portraits
from pidiff_core.face.search import FaceDetection


class Known:
    """A detector that knows the answer."""

    name = "known"

    def __init__(self, points):
        self.points = points

    def detect(self, image_bchw):
        if self.points is None:
            return []
        return [FaceDetection(torch.tensor([0.0, 0.0, 64.0, 64.0]), torch.tensor(self.points), 1.0)]


FRONTAL = [[24.0, 30.0], [40.0, 30.0], [32.0, 40.0], [26.0, 50.0], [38.0, 50.0]]


class KnownRegions:
    """A parser that sees two eyes of a known height and width, and a face of a known width; in pixels of 64."""

    def __init__(self, *, height=4.0, width=8.0, face=32.0, turned=False):
        self.height, self.width, self.face, self.turned = height, width, face, turned

    def eyes_and_face(self, crops_bchw):
        steps = (torch.arange(512.0) + 0.5) / 8 - 0.5
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        eyes = torch.zeros(512, 512, dtype=torch.bool)
        for middle in (24.0, 40.0):
            eyes |= ((x - middle) / self.width * 2) ** 2 + ((y - 30.0) / self.height * 2) ** 2 <= 1
        face = (x - 32.0).abs() <= self.face / 2
        masks = [mask.float()[None, None] for mask in (eyes, face)]
        return tuple(mask.rot90(-1, (2, 3)) for mask in masks) if self.turned else tuple(masks)


def measured(points, portrait=None, parser=None):
    portrait = torch.zeros(1, 3, 64, 64) if portrait is None else portrait
    values = measure_portraits(portrait, Known(points), parser=parser)
    return {name: value.item() for name, value in values.items()}


def test_values_of_a_known_face():
    values = measured(FRONTAL)
    assert set(values) == set(MEASURES)
    assert values["yaw"] == pytest.approx(0.0, abs=1e-6)
    assert values["pitch"] == pytest.approx(0.5)
    assert values["smile"] == pytest.approx(12 / 16)
    assert values["face length"] == pytest.approx(20 / 16)


def test_a_turn_of_the_picture_changes_nothing():
    turned = [[64.0 - y, x] for x, y in FRONTAL]
    plain, there = measured(FRONTAL), measured(turned)
    for name in ("yaw", "pitch", "smile", "face length"):
        assert there[name] == pytest.approx(plain[name], abs=1e-5), name


def test_yaw_and_smile_follow_the_points():
    right = [list(point) for point in FRONTAL]
    right[2][0] += 4.0
    assert measured(right)["yaw"] == pytest.approx(0.25)
    wide = [list(point) for point in FRONTAL]
    wide[3][0] -= 2.0
    assert measured(wide)["smile"] > measured(FRONTAL)["smile"]


def test_skin_and_hair_are_read_in_their_places():
    portrait = torch.zeros(1, 3, 64, 64)
    portrait[:, :, :14] = 1.0  # hair
    portrait[:, :, 34:48] = -1.0  # cheeks and nose
    values = measured(FRONTAL, portrait)
    assert values["hair lightness"] == pytest.approx(1.0)
    assert values["skin lightness"] == pytest.approx(0.0)


def test_no_face_is_nan():
    assert all(value != value for value in measured(None).values())
    assert set(measured(None, parser=KnownRegions())) == {*MEASURES, *PARSED_MEASURES}


def test_a_parser_shows_how_far_the_eyes_are_open_and_how_wide_the_face_is():
    values = measured(FRONTAL, parser=KnownRegions(height=4.0, width=8.0, face=32.0))
    assert values["eyes open"] == pytest.approx(0.5, rel=0.02)
    assert values["face width"] == pytest.approx(2.0, rel=0.02)  # the eyes are 16 px apart
    values = measured(FRONTAL, parser=KnownRegions(height=1.5, width=6.0, face=24.0))
    assert values["eyes open"] == pytest.approx(0.25, rel=0.05)
    assert values["face width"] == pytest.approx(1.5, rel=0.02)
    turned = [[63.0 - y, x] for x, y in FRONTAL]
    values = measured(turned, parser=KnownRegions(height=4.0, width=8.0, face=32.0, turned=True))
    assert values["eyes open"] == pytest.approx(0.5, rel=0.02)
    assert values["face width"] == pytest.approx(2.0, rel=0.02)


def test_eyes_that_the_parser_does_not_see_are_nan():
    values = measured(FRONTAL, parser=KnownRegions(height=0.1))
    assert values["eyes open"] != values["eyes open"]
    assert values["face width"] == pytest.approx(2.0, rel=0.02)
