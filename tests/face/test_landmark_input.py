"""Faces given in a detector's place: every layout of points, JSON, and the values of other nodes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.landmark_input import needs_detector, read_landmarks

FIVE = torch.tensor([[60.0, 50.0], [84.0, 50.0], [72.0, 65.0], [63.0, 78.0], [81.0, 78.0]])
TEXT = " ".join(f"{x},{y}" for x, y in FIVE.tolist())
SIZE = (120, 160)
# layout -> the points that make up each of the five
EYES_NOSE_MOUTH = {
    68: (range(36, 42), range(42, 48), [30], [48], [54]),
    70: (range(36, 42), range(42, 48), [30], [48], [54]),
    106: ([35, 41, 42, 39, 37, 36], [89, 95, 96, 93, 91, 90], [86], [52], [61]),
    468: ([33, 160, 158, 133, 153, 144], [362, 385, 387, 263, 373, 380], [1], [61], [291]),
    478: ([33, 160, 158, 133, 153, 144], [362, 385, 387, 263, 373, 380], [1], [61], [291]),
}


def many(number, five=FIVE):
    """So many points: all at the face's middle but those that matter, the eyes' spread around their centres."""
    points = five.mean(dim=0).repeat(number, 1)
    for centre, group in zip(five, EYES_NOSE_MOUTH[number]):
        spread = torch.linspace(-3, 3, len(group)) if len(group) > 1 else torch.zeros(1)
        points[list(group)] = centre + torch.stack([spread, torch.zeros_like(spread)], dim=1)
    return points


def landmarks(given):
    return [face.landmarks for face in given.faces]


def openpose(*faces, width=160, height=120):
    people = [{"pose_keypoints_2d": [], "face_keypoints_2d": face} for face in faces]
    return {"people": people, "canvas_width": width, "canvas_height": height}


def triples(points, confidence=1.0):
    return torch.cat([points, torch.full((len(points), 1), confidence)], dim=1).flatten().tolist()


@pytest.mark.parametrize("number", EYES_NOSE_MOUTH)
@pytest.mark.parametrize("form", ["text", "json", "objects", "wire"])
def test_every_layout_becomes_the_five(number, form):
    points = many(number)
    value = {
        "text": " ".join(f"{x:.3f},{y:.3f}" for x, y in points.tolist()),
        "json": json.dumps(points.tolist()),
        "objects": json.dumps([{"x": x, "y": y} for x, y in points.tolist()]),
        "wire": {"frames": [[{"landmarks_xy": points.numpy(), "score": 0.9}]], "image_size": SIZE},
    }[form]
    (given,) = read_landmarks(value, count=1, size=SIZE)
    torch.testing.assert_close(given.faces[0].landmarks, FIVE, atol=1e-2, rtol=0)
    assert not needs_detector([given])


@pytest.mark.parametrize("value", [None, "", " \n "])
def test_nothing_given_needs_a_detector(value):
    assert read_landmarks(value, count=2, size=SIZE) == [None, None]
    assert needs_detector([None, None])


@pytest.mark.parametrize("text", ["10,20 110,100", "[[10, 20], [110, 100]]", "[10, 20, 110, 100]"])
def test_two_points_are_a_box_in_which_a_detector_looks(text):
    given = read_landmarks(text, count=2, size=SIZE)
    assert given[1].box_xyxy.tolist() == [10.0, 20.0, 110.0, 100.0]
    assert needs_detector(given)


def test_lines_belong_to_their_photos_and_one_line_to_all():
    moved = " ".join(f"{x + 10},{y}" for x, y in FIVE.tolist())
    first, second = read_landmarks(f"{TEXT}\n{moved}", count=2, size=SIZE)
    assert float(landmarks(second)[0][0, 0] - landmarks(first)[0][0, 0]) == 10.0
    assert len(read_landmarks(TEXT, count=3, size=SIZE)) == 3
    assert len(landmarks(read_landmarks(TEXT.replace(" ", "\n"), count=1, size=SIZE)[0])) == 1
    with pytest.raises(PIDiffError, match="2 lines of landmarks were given for 3 photos"):
        read_landmarks(f"{TEXT}\n{moved}", count=3, size=SIZE)


def test_json_may_hold_several_faces():
    other = FIVE + 20
    for value in (
        [FIVE.tolist(), other.tolist()],
        {"faces": [FIVE.tolist(), other.tolist()]},
        [{"kps": FIVE.tolist()}, {"landmarks": other.tolist()}],
    ):
        (given,) = read_landmarks(json.dumps(value), count=1, size=SIZE)
        assert [five[0, 0].item() for five in landmarks(given)] == [60.0, 80.0]
    each = read_landmarks(json.dumps([FIVE.tolist(), other.tolist()]), count=2, size=SIZE)
    assert [landmarks(given)[0][0, 0].item() for given in each] == [60.0, 80.0]


def test_fractions_of_the_picture_are_told_from_pixels():
    fractions = (FIVE + 0.5) / torch.tensor([160.0, 120.0])
    (given,) = read_landmarks(json.dumps(fractions.tolist()), count=1, size=SIZE)
    torch.testing.assert_close(landmarks(given)[0], FIVE, atol=1e-3, rtol=0)
    with pytest.raises(PIDiffError, match="not a face"):  # as text they are pixels, as ever
        read_landmarks(" ".join(f"{x},{y}" for x, y in fractions.tolist()), count=1, size=SIZE)


@pytest.mark.parametrize("as_text", [False, True])
def test_openpose_keypoints_are_scaled_from_their_canvas(as_text):
    double = triples(many(70) * 2 + 0.5)
    value = [openpose(double, None, width=320, height=240)]
    (given,) = read_landmarks(json.dumps(value) if as_text else value, count=1, size=SIZE)
    (five,) = landmarks(given)
    torch.testing.assert_close(five, FIVE, atol=1e-3, rtol=0)


def test_people_whose_face_is_not_seen_are_left_out():
    hidden, half = triples(many(70), confidence=0.0), many(70)
    half = triples(half)
    half[36 * 3 + 2] = 0.0  # a point of an eye is missing
    cheek = triples(many(70) + 20)
    cheek[3 * 3 + 2] = 0.0  # one that nobody needs
    (given,) = read_landmarks([openpose(hidden, half, cheek)], count=1, size=SIZE)
    assert [five[0, 0].item() for five in landmarks(given)] == pytest.approx([80.0])


def test_openpose_of_a_batch_is_one_object_for_each_photo():
    first, second = read_landmarks([openpose(triples(many(70))), openpose()], count=2, size=SIZE)
    assert len(first.faces) == 1
    assert second.faces == ()
    with pytest.raises(PIDiffError, match="for 2 photos, but there are 3"):
        read_landmarks([openpose(), openpose()], count=3, size=SIZE)


def test_the_host_s_landmarks_may_be_of_another_size_and_hold_no_face():
    large = (many(478) + 0.5) * 2 - 0.5
    value = {"frames": [[{"landmarks_xy": large.numpy()}], []], "image_size": (240, 320), "connection_sets": {}}
    first, second = read_landmarks(value, count=2, size=SIZE)
    torch.testing.assert_close(landmarks(first)[0], FIVE, atol=1e-3, rtol=0)
    assert second.faces == ()
    assert not needs_detector([first, second])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a,b", "not numbers"),
        ("1,2,3", "cannot be split into pairs"),
        ('{"hands": []}', "not the points of a face"),
        ("[[[1, 2, 3, 4]]]", "not the points of a face"),
        (json.dumps(np.zeros((17, 2)).tolist()), "17 landmarks were given"),
        (json.dumps((FIVE * 0 + 7).tolist()), "are not a face"),
        ('{"people": 5}', "Unrecognised landmark format"),
        ('{"people": null}', "Unrecognised landmark format"),
        ('{"frames": 5}', "Unrecognised landmark format"),
        ('{"frames": [5]}', "Unrecognised landmark format"),
        ('{"frames": [[]], "image_size": 5}', "Unrecognised landmark format"),
        ('{"people": [], "canvas_width": "wide", "canvas_height": 5}', "Unrecognised landmark format"),
        (f"[[{'9' * 400}, 1], [2, 3], [4, 5], [6, 7], [8, 9]]", "Unrecognised landmark format"),
        (f'{{"frames": [], "image_size": [{"9" * 400}, 1]}}', "Unrecognised landmark format"),
        (5, "not the points of a face"),
        (TEXT.replace("60.0", "nan"), "not finite"),
        (TEXT.replace("60.0", "inf"), "not finite"),
        (TEXT.replace("60.0", "1e300"), "not finite"),
        (TEXT.replace("60.0", "-1e9"), "1e.09 px away from the picture"),
        (json.dumps(FIVE.tolist()).replace("60.0", "NaN"), "not finite"),
        (json.dumps(FIVE.tolist()).replace("60.0", "Infinity"), "not finite"),
        ("0,0 1e9,1e9", "should be left, top, right, bottom"),
        ("10,20 10,20", "at least 4 px a side"),
        (TEXT.replace("60.0", "\udcff"), r"\\udcff.* are not numbers"),
        (json.dumps([[[10, 20], [110, 100]], FIVE.tolist()]), "box .two points. is given .* together with 1 other"),
        (
            json.dumps([[[10, 20], [110, 100]], [[0, 0], [50, 50]]]),
            "box .two points. is given .* together with 1 other",
        ),
    ],
)
def test_what_is_no_face_is_refused(value, message):
    with pytest.raises(PIDiffError, match=message):
        read_landmarks(value, count=1, size=SIZE)


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor])
def test_points_of_a_tensor_or_an_array_are_read_as_those_of_a_list(kind):
    one = kind(FIVE.tolist())
    (read,) = read_landmarks(one, count=1, size=(120, 160))
    torch.testing.assert_close(read.faces[0].landmarks, FIVE)
    both = read_landmarks(kind([FIVE.tolist(), (FIVE + 5).tolist()]), count=2, size=(120, 160))
    torch.testing.assert_close(torch.stack([one.faces[0].landmarks for one in both]), torch.stack([FIVE, FIVE + 5]))
    (nested,) = read_landmarks({"faces": [one]}, count=1, size=(120, 160))
    torch.testing.assert_close(nested.faces[0].landmarks, FIVE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.rand(1, 512, 512), "not the points of a face|Unrecognised|shape"),
        (torch.rand(1, 1024, 1024, 3), r"shape \(1, 1024, 1024, 3\): more numbers than faces have"),
        (torch.rand(5, 2, device="meta"), "without points"),
        (torch.rand(5, 2).to_sparse(), "without points"),
        (torch.tensor(1.0), "not the points|Unrecognised"),
        ([torch.full((5, 2), float("nan"))], "not finite"),
    ],
)
def test_a_tensor_without_points_is_refused(value, message):
    with pytest.raises(PIDiffError, match=message):
        read_landmarks(value, count=1, size=(120, 160))
