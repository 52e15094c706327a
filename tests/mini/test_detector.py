"""The face finder of the drawn world, as shipped: pictures of every width, and none without a face."""

from __future__ import annotations

import pytest
import torch

from drawn_world.data import World
from drawn_world.render import render
from pidiff_core.mini.bundle import load_identity

WORLD = World(seed=77, people=10, scenes=1)  # no network was trained on these people


@pytest.fixture(scope="module")
def detector():
    return load_identity().detector


@pytest.mark.parametrize(("width", "height", "left"), [(128, 128, 0), (192, 128, 40), (256, 128, 100), (128, 192, 0)])
def test_the_points_lie_on_the_face_in_pictures_of_every_width(detector, width, height, left):
    for number in range(len(WORLD)):
        drawn = render(WORLD.person(number), WORLD.scene(number, medium="photo"))
        photo = torch.zeros(1, 3, height, width)
        photo[:, :, :128, left : left + 128] = torch.from_numpy(drawn.image.copy()).permute(2, 0, 1) / 127.5 - 1
        (face,) = detector.detect(photo)
        true = torch.from_numpy(drawn.landmarks).float() - 0.5 + torch.tensor([left, 0])
        eyes = (true[1] - true[0]).norm()
        assert (face.landmarks - true).norm(dim=1).mean() < 0.15 * eyes, number


def test_a_picture_without_a_face_has_none(detector):
    for number in range(len(WORLD)):
        drawn = render(WORLD.person(number), WORLD.scene(number, medium="photo"))
        corner = torch.from_numpy(drawn.image.copy()).permute(2, 0, 1)[None, :, :40, :40] / 127.5 - 1
        assert detector.detect(corner) == []
