"""The judge from outside, on real photos that a package carries and on drawn people."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from drawn_world.data import World
from drawn_world.render import render
from pidiff_core.errors import PIDiffError
from pidiff_core.face import recognisers
from pidiff_core.face.recognisers import DlibRecogniser, recogniser, vectors
from pidiff_core.images import load_image
from pidiff_core.training.evaluate.likeness import faces_found, gallery_of, retrieval, similarity, tell_apart

PEOPLE, EACH = 6, 3


@pytest.fixture(scope="module")
def dlib():
    return DlibRecogniser()


@pytest.fixture(scope="module")
def drawn(dlib):
    """Vectors of drawn people, and who they are."""
    world = World(seed=2_000_000, people=PEOPLE, scenes=EACH)
    pictures = [render(world.person(i // EACH), world.scene(i, medium="photo")).image for i in range(len(world))]
    images = torch.from_numpy(np.stack(pictures)).float() / 255
    return vectors(dlib, images), [i // EACH for i in range(len(world))]


def test_one_person_under_other_light_and_frame_is_the_same(dlib, photo):
    image = load_image(photo)
    crop = image[:, 0:256, 96:352] * 0.8
    other_size = torch.nn.functional.interpolate(crop.movedim(-1, 1), (160, 160), mode="area").movedim(1, -1)
    distance = (dlib.vector(image) - dlib.vector(other_size)).norm()
    assert distance < dlib.same_below


def test_no_face_is_none(dlib):
    assert dlib.vector(torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))) is None


def test_it_tells_drawn_people_apart(drawn):
    telling = tell_apart(*drawn)
    assert telling.faces_found >= 0.85
    assert telling.auc >= 0.85
    assert telling.same < telling.different


def test_retrieval_of_drawn_people(drawn):
    found, people = drawn
    gallery = gallery_of(found[1::EACH] + found[2::EACH], people[1::EACH] + people[2::EACH])
    asked, who = found[::EACH], people[::EACH]
    assert retrieval(asked, who, gallery=gallery) >= 4 / 6
    strangers = [(person + 1) % PEOPLE for person in who]
    assert retrieval(asked, strangers, gallery=gallery) <= 1 / 6
    assert similarity(asked, who, gallery=gallery) > similarity(asked, strangers, gallery=gallery)


def test_pictures_without_a_face_count_as_wrong():
    gallery = {0: torch.tensor([0.0]), 1: torch.tensor([1.0])}
    seen = [torch.tensor([0.1]), None, torch.tensor([0.2]), torch.tensor([0.9])]
    assert retrieval(seen, [0, 0, 1, 1], gallery=gallery) == 0.5
    assert faces_found(seen) == 0.75
    assert similarity(seen, [0, 0, 1, 1], gallery=gallery) == pytest.approx((0.9 + 0.2 + 0.9) / 3)


def test_auc_of_known_distances():
    points = [torch.tensor([x]) for x in (0.0, 0.1, 1.0, 1.1)]
    telling = tell_apart([*points, None], ["a", "a", "b", "b", "b"])
    assert telling.auc == 1.0
    assert telling.faces_found == 0.8
    assert tell_apart(points, ["a", "b", "a", "b"]).auc == pytest.approx(1 / 4)


def test_telling_apart_needs_pairs():
    with pytest.raises(PIDiffError, match="0 of 2 pictures"):
        tell_apart([None, None], [0, 1])
    with pytest.raises(PIDiffError, match="two pictures of one person"):
        tell_apart([torch.zeros(1), torch.ones(1)], [0, 1])


def test_without_packages_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(recognisers, "insightface_installed", lambda: False)
    with pytest.raises(PIDiffError, match="pip install dlib-bin face-recognition-models"):
        recogniser("auto")
    with pytest.raises(PIDiffError, match="insightface needs"):
        recogniser("insightface")
    with pytest.raises(PIDiffError, match="should be one of auto, dlib, insightface, facenet"):
        recogniser("arcface")


@pytest.mark.slow
def test_a_large_picture_is_reduced(dlib, tmp_path, photo):
    large = Image.open(photo).resize((2400, 2400))
    large.save(tmp_path / "large.png")
    assert (dlib.vector(load_image(tmp_path / "large.png")) - dlib.vector(load_image(photo))).norm() < dlib.same_below
