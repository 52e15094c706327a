"""What is a face and what is not: a part of the pictures of `bench.py faces`, with the detector that everybody has."""

from __future__ import annotations

import pytest

from benchmarks import faces
from benchmarks.face_pictures import with_face, without_face
from pidiff_core.face.detectors.mtcnn import MTCNNDetector

EMPTY = (
    "cat", "cat's face", "coffee, close", "rocket's top", "clock", "drawn cat, 384 px", "drawn owl, 160 px",
    "noise of 16 px",
)  # fmt: skip
FACES = (
    "as it is", "grey", "red light", "dark", "hard", "lit from one side", "blurred", "sunglasses", "face mask",
    "JPEG 10", "noise 40", "turned by 45", "turned by 180", "82 px", "1280 px", "cut at the chin",
    "face fills the picture", "pasted on page", "tall strip",
)  # fmt: skip


def test_there_are_enough_pictures_of_both_kinds():
    empty, full = [name for name, _ in without_face()], [name for name, *_ in with_face()]
    assert len(empty) >= 60
    assert len(full) >= 60
    assert len(set(empty)) == len(empty)
    assert len(set(full)) == len(full)
    assert set(EMPTY) <= set(empty)
    assert set(FACES) <= set(full)


@pytest.mark.slow
def test_faces_are_found_and_nothing_else_is():
    counts = faces.measure(
        MTCNNDetector(),
        [entry for entry in without_face() if entry[0] in EMPTY],
        [entry for entry in with_face() if entry[0] in FACES],
    )
    assert (counts["pictures_without_face"], counts["pictures_with_face"]) == (len(EMPTY), len(FACES))
    assert (counts["false"], counts["missed"]) == (0, 0)
