"""What is read off portraits, with landmarks that are known."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.face.measure import MEASURES, measure_portraits
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


def measured(points, portrait=None):
    portrait = torch.zeros(1, 3, 64, 64) if portrait is None else portrait
    return {name: value.item() for name, value in measure_portraits(portrait, Known(points)).items()}


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
