"""Faces that are turned by any angle: the views, and the second look that tells points from habits."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.confirm import confirm
from pidiff_core.face.detection import FaceDetection, find_faces
from pidiff_core.face.geometry import transform_box, transform_points, turn
from pidiff_core.face.mtcnn import MTCNNDetector, mtcnn_installed
from pidiff_core.face.views import VIEWS, show
from pidiff_core.face.yunet import YuNetDetector
from pidiff_core.images import bhwc_to_bchw, resize_bchw

ASTRONAUT = torch.tensor([[205.0, 103.0], [247.0, 104.0], [225.0, 129.0], [203.0, 140.0], [245.0, 142.0]])


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    return bhwc_to_bchw(torch.from_numpy(data.astronaut()).float()[None] / 255)


@pytest.fixture(scope="module", params=["mtcnn", "yunet"])
def detector(request):
    if request.param == "yunet":
        return YuNetDetector(request.getfixturevalue("reference_dir") / "yunet_final.pth")
    if not mtcnn_installed():
        pytest.skip("facenet-pytorch is not installed")
    return MTCNNDetector()


def error_px(face, to_picture):
    """The largest distance of a point from where it is in the photo that was turned."""
    return float((transform_points(to_picture, face.landmarks) - ASTRONAUT).norm(dim=1).max())


@pytest.mark.parametrize("degrees", [30, 45, 135, 180, 200, 290])
def test_the_astronaut_is_found_however_she_is_turned(astronaut, detector, degrees):
    turned, to_picture = turn(astronaut, degrees)
    faces = find_faces(turned, detector, pick=lambda found: sorted(found, key=lambda face: -face.score)[:1])
    assert [error_px(face, to_picture) < 8 for face in faces] == [True]


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 180, 215, 270, 300, 450])
def test_a_turn_is_mapped_back_exactly(degrees):
    """A smooth dot at a known place: its centre of mass in the turned picture leads back to it."""
    height, width, x, y = 90, 120, 71.0, 30.0
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18.0)[None, None]
    turned, to_picture = turn(dot, degrees)
    weights = turned[0, 0] / turned.sum()
    rows, columns = torch.meshgrid(torch.arange(turned.shape[2]), torch.arange(turned.shape[3]), indexing="ij")
    centre = torch.stack([(columns * weights).sum(), (rows * weights).sum()])
    torch.testing.assert_close(transform_points(to_picture, centre[None])[0], torch.tensor([x, y]), atol=0.05, rtol=0)
    assert float(turned.sum()) == pytest.approx(float(dot.sum()), rel=0.01)  # nothing was cut off


def test_quarter_turns_change_no_pixel():
    image = torch.rand(1, 3, 7, 11)
    assert torch.equal(turn(image, 90)[0], torch.rot90(image, 1, dims=(2, 3)))
    assert torch.equal(turn(turn(image, 90)[0], -90)[0], image)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_every_view_knows_the_way_back(view):
    height, width = 300, 420
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shown, to_picture = show(torch.stack([x, y, torch.ones_like(x)])[None], view)
    centre = torch.tensor([[shown.shape[3] / 2, shown.shape[2] / 2]])
    for offset in ((0.0, 0.0), (40.0, 25.0), (-30.0, 50.0)):
        point = (centre + torch.tensor(offset)).round()
        column, row = point[0].int().tolist()
        seen = (shown[0, :2, row, column] + 1) / 2 * torch.tensor([width - 1.0, height - 1.0])
        torch.testing.assert_close(seen, transform_points(to_picture, point)[0], atol=0.6, rtol=0)


def test_boxes_stay_as_large_as_they_were():
    box = torch.tensor([10.0, 20.0, 50.0, 100.0])
    _, to_picture = turn(torch.zeros(1, 1, 200, 200), 45)
    moved = transform_box(to_picture, box)
    assert (moved[2:] - moved[:2]).tolist() == pytest.approx([60.0, 60.0], rel=1e-3)
    _, to_picture = turn(torch.zeros(1, 1, 200, 200), 90)
    moved = transform_box(to_picture, box)
    assert (moved[2:] - moved[:2]).tolist() == pytest.approx([80.0, 40.0], rel=1e-3)


class Habit:
    """Reports an upright face at one place of any picture, whatever is there: what the second look is for."""

    name, second_look = "habit", True

    def __init__(self):
        self.views = 0

    def detect(self, image_bchw):
        self.views += 1
        middle = torch.tensor([image_bchw.shape[3] / 2, image_bchw.shape[2] / 2])
        points = middle + torch.tensor([[-20.0, -15], [20, -15], [0, 5], [-15, 25], [15, 25]])
        return [FaceDetection(torch.cat([middle - 50, middle + 50]), points, 0.99)]


class Ghost:
    """A real detector that also sees a large face in the picture's corner, when the picture is shown as it is."""

    name, second_look = "ghost", True

    def __init__(self, detector, shape):
        self.detector, self.shape = detector, shape

    def detect(self, image_bchw):
        found = self.detector.detect(image_bchw)
        if tuple(image_bchw.shape[-2:]) != self.shape:
            return found
        points = torch.tensor([[340.0, 330], [420, 330], [380, 370], [350, 410], [410, 410]])
        return [FaceDetection(torch.tensor([300.0, 280, 460, 450]), points, 0.99), *found]


def test_a_wrong_detector_in_front_does_not_hide_what_the_next_one_sees(astronaut, detector):
    habit = Habit()
    (face,) = find_faces(astronaut, [habit, detector], pick=lambda found: found[:1])
    assert habit.views
    assert face.found_by == detector.name
    assert error_px(face, torch.eye(3)) < 8


def test_too_few_faces_later_are_no_reason_to_forget_the_first():
    def second(faces):
        if len(faces) < 2:
            raise PIDiffError("only one")
        return faces[1:2]

    class Two(Habit):
        def detect(self, image_bchw):
            return super().detect(image_bchw) * 2

    image = torch.zeros(1, 3, 100, 100)
    assert find_faces(image, [Two(), Habit()], pick=second)[0].found_by == "habit"
    with pytest.raises(PIDiffError, match="only one"):
        find_faces(image, [Habit(), Two()], pick=second)


def test_what_is_not_seen_again_is_left_out_where_a_face_is(astronaut, detector):
    (face,) = find_faces(astronaut, Ghost(detector, (512, 512)))  # all of them: the ghost is the largest
    assert error_px(face, torch.eye(3)) < 8


def test_a_large_noisy_face_is_confirmed_with_its_points(astronaut):
    if not mtcnn_installed():
        pytest.skip("facenet-pytorch is not installed")
    large = resize_bchw(astronaut[:, :, 40:200, 140:300], 2400)
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0))
    points = (ASTRONAUT - torch.tensor([140.0, 40.0]) + 0.5) * 15 - 0.5
    box = torch.cat([points.amin(dim=0) - 500, points.amax(dim=0) + 500])
    found = FaceDetection(box, points, 1.0)
    face, agreed = confirm((large + 1.5 * noise).clamp(-1, 1), found, MTCNNDetector())
    assert agreed
    assert float((face.landmarks - points).norm(dim=1).max()) < 8 * 15


def test_points_that_turn_with_the_view_are_taken_only_when_nothing_better_is_found():
    detector = Habit()
    (face,) = find_faces(torch.zeros(1, 3, 400, 400), detector)
    assert detector.views > len(VIEWS)  # no view was believed
    assert face.middle.tolist() == pytest.approx([200.0, 205.0])  # what the first one said
