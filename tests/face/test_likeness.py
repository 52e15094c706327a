"""Likeness on its scale, the order, the gate and the labels."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.likeness import measure_likeness, percent_of
from pidiff_core.face.recognisers import DlibRecogniser, FaceNetRecogniser, recogniser
from pidiff_core.images import load_image, with_labels


class BrightnessJudge:
    """Sees the mean brightness; nothing in a black picture."""

    name, same_below = "brightness", 0.25

    def vector(self, image_bhwc):
        value = image_bhwc.mean()
        return None if value == 0.0 else value[None]


def grey(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 8, 8, 3)


def test_percents_of_known_distances():
    assert percent_of(0.0, 0.6) == 100.0
    assert percent_of(0.6, 0.6) == 50.0
    assert percent_of(0.9, 0.6) == pytest.approx(25.0)
    assert percent_of(5.0, 0.6) == 0.0


def test_pictures_are_ranked_and_those_without_a_face_come_last():
    found = measure_likeness(BrightnessJudge(), grey(0.9, 0.0, 0.5, 0.6), grey(0.5))
    assert found.percents[1] is None
    assert [found.percents[index] for index in (0, 2, 3)] == pytest.approx([20.0, 100.0, 80.0], abs=1e-3)
    assert found.order == [2, 3, 0, 1]
    assert found.above(50.0) == [2, 3]
    assert found.above(0.0) == [2, 3, 0, 1]
    assert found.report().splitlines() == [
        "brightness, 1 photo of the person; 50 %: its limit for one person",
        "picture 2: 100 %",
        "picture 3: 80 %",
        "picture 0: 20 %",
        "picture 1: no face",
    ]


def test_several_references_are_averaged_and_those_without_a_face_do_not_count():
    found = measure_likeness(BrightnessJudge(), grey(0.5), grey(0.4, 0.0, 0.7))
    assert found.references == 2
    assert found.percents == pytest.approx((70.0,), abs=1e-3)
    with pytest.raises(PIDiffError, match="brightness finds no face in the 1 reference"):
        measure_likeness(BrightnessJudge(), grey(0.5), grey(0.0))


def test_progress_counts_every_picture():
    steps: list[float] = []
    measure_likeness(BrightnessJudge(), grey(0.5, 0.6), grey(0.5, 0.5), on_progress=steps.append)
    assert steps == [0.25, 0.5, 0.75, 1.0]


def test_the_same_photo_is_100_percent_for_a_real_recogniser(photo):
    image = load_image(photo)[:, :256, 96:352]
    found = measure_likeness(DlibRecogniser(), torch.cat([torch.zeros_like(image), image * 0.8, image]), image)
    assert found.order == [2, 1, 0]
    assert found.percents[2] == pytest.approx(100.0)
    assert 70.0 < found.percents[1] < 100.0
    assert found.percents[0] is None


def test_labels_change_the_lowest_rows_alone():
    pictures = torch.rand(2, 96, 80, 3, generator=torch.Generator().manual_seed(0))
    labelled = with_labels(pictures, ["12 %", "no face"])
    assert torch.equal(labelled[:, :-14], pictures[:, :-14])
    assert labelled[:, -14:].amax(dim=(1, 2, 3)).min() > 0.9, "white text"
    assert (labelled[0, -14:] - with_labels(pictures, ["13 %", ""])[0, -14:]).abs().max() > 0.3
    tiny = torch.zeros(1, 4, 4, 3)
    assert with_labels(tiny, ["100 %"]).shape == tiny.shape


@pytest.fixture(scope="module")
def facenet_file(tmp_path_factory):
    """Random weights in the layout of facenet-pytorch's published files, its classifier included."""
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    state = InceptionResnetV1(pretrained=None, classify=False).state_dict()
    state |= {"logits.weight": torch.zeros(9, 512), "logits.bias": torch.zeros(9)}
    path = tmp_path_factory.mktemp("facenet") / "any_name.pt"
    torch.save(state, path)
    return path


def test_facenet_reads_the_published_layout_and_finds_the_largest_face(facenet_file, photo, tmp_path):
    judge = recogniser("facenet", facenet_weights=facenet_file)
    image = load_image(photo)
    vector = judge.vector(image)
    assert vector.shape == (512,)
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(judge.vector(image), vector)
    assert judge.vector(torch.zeros(1, 64, 64, 3)) is None
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(PIDiffError, match=r"not a file of FaceNet's weights.*vggface2"):
        FaceNetRecogniser(tmp_path / "other.pt")
    with pytest.raises(PIDiffError, match=r"put .*vggface2.pt.* into the folder models/pidiff"):
        recogniser("facenet")
