"""Faces that are turned by any angle: the views, and the second look that tells points from habits."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.detectors.mtcnn import MTCNNDetector
from pidiff_core.face.search import VIEWS, FaceChoice, FaceDetection, find_faces, show
from pidiff_core.images import bchw_to_bhwc, bhwc_to_bchw, resize_bchw, transform_box, transform_points, turn

ASTRONAUT = torch.tensor([[205.0, 103.0], [247.0, 104.0], [225.0, 129.0], [203.0, 140.0], [245.0, 142.0]])


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    return bhwc_to_bchw(torch.from_numpy(data.astronaut()).float()[None] / 255)


@pytest.fixture(scope="module")
def detector():
    return MTCNNDetector()


def error_px(face, to_picture):
    """The largest distance of a point from where it is in the photo that was turned."""
    return float((transform_points(to_picture, face.landmarks) - ASTRONAUT).norm(dim=1).max())


@pytest.mark.parametrize(
    "degrees", [30, 135, 180, *(pytest.param(degrees, marks=pytest.mark.slow) for degrees in (45, 200, 290))]
)
def test_the_astronaut_is_found_however_she_is_turned(astronaut, detector, degrees):
    turned, to_picture = turn(astronaut, degrees)
    faces = find_faces(bchw_to_bhwc(turned), detector)
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
    (face,) = find_faces(bchw_to_bhwc(astronaut), [habit, detector], choice=FaceChoice("largest first"))
    assert habit.views
    assert face.found_by == detector.name
    assert not face.doubtful
    assert error_px(face, torch.eye(3)) < 8


@pytest.mark.slow
def test_the_largest_detection_is_not_meant_if_it_is_no_face(astronaut, detector):
    """The ghost is larger than the astronaut, and comes first in every order."""
    for choice in ("all", "largest first"):
        (face,) = find_faces(bchw_to_bhwc(astronaut), Ghost(detector, (512, 512)), choice=FaceChoice(choice))
        assert error_px(face, torch.eye(3)) < 8
    with pytest.raises(PIDiffError, match="Face 1 was asked for, but only 1 found"):
        find_faces(bchw_to_bhwc(astronaut), Ghost(detector, (512, 512)), choice=FaceChoice("largest first", 1))


def test_a_large_noisy_face_is_confirmed_with_its_points(astronaut):
    large = resize_bchw(astronaut[:, :, 40:200, 140:300], 2400)
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0))
    points = (ASTRONAUT - torch.tensor([140.0, 40.0]) + 0.5) * 15 - 0.5

    class Found(MTCNNDetector):
        def detect(self, image_bchw):
            if max(image_bchw.shape[-2:]) > 640:
                box = torch.cat([points.amin(dim=0) - 500, points.amax(dim=0) + 500])
                scale = image_bchw.shape[-1] / 2400
                return [FaceDetection(box * scale, points * scale, 1.0)]
            return super().detect(image_bchw)

    (face,) = find_faces(bchw_to_bhwc((large + 1.5 * noise).clamp(-1, 1)), Found())
    assert not face.doubtful
    assert float((face.landmarks - points).norm(dim=1).max()) < 8 * 15


def test_points_that_turn_with_the_view_are_no_face():
    detector = Habit()
    assert find_faces(torch.zeros(1, 400, 400, 3), detector) == []
    assert detector.views > len(VIEWS)


class Dots:
    """Finds five coloured dots at any angle, with points that are moved by `habit_px` to the right of every view.

    What the view shifts turns back with it: neighbouring views of a face of 100 px, 30 degrees apart, then differ by
    2 sin(15 degrees) habit_px.
    """

    name, second_look = "dots", True
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, -1, 1]])

    def __init__(self, habit_px, score):
        self.habit_px, self.score = habit_px, score

    def detect(self, image_bchw):
        points = []
        for colour in self.colours:
            hit = ((image_bchw[0] - colour[:, None, None]).abs().amax(dim=0) < 0.4).nonzero().float()
            if len(hit) < 4:
                return []
            points.append(hit.mean(dim=0).flip(0))
        five = torch.stack(points)
        reach = 1.25 * (five[3:].mean(dim=0) - five[:2].mean(dim=0)).norm()
        box = torch.cat([five.mean(dim=0) - reach, five.mean(dim=0) + reach])
        shifted = five + torch.tensor([self.habit_px * float(reach) / 50, 0.0])
        return [FaceDetection(box, shifted, self.score)]

    @classmethod
    def photo(cls):
        image = torch.full((1, 3, 400, 400), -0.2)
        for (x, y), colour in zip([(180, 180), (220, 180), (200, 200), (185, 220), (215, 220)], cls.colours):
            image[0, :, y - 5 : y + 6, x - 5 : x + 6] = colour[:, None, None]
        return bchw_to_bhwc(image)


@pytest.mark.parametrize(
    ("habit_px", "score", "expected"),
    [(0.0, 0.5, "face"), (8.0, 0.5, "face"), (16.0, 0.99, "doubtful"), (16.0, 0.9, "none"), (30.0, 1.0, "none")],
)
def test_what_holds_in_rotated_views_is_a_face_and_what_nearly_does_is_doubtful(habit_px, score, expected):
    faces = find_faces(Dots.photo(), Dots(habit_px, score))
    assert ["none" if not faces else "doubtful" if faces[0].doubtful else "face"] == [expected]


@pytest.mark.slow
def test_a_doubtful_face_is_taken_only_if_no_detector_finds_a_better_one():
    doubtful, sure = Dots(16.0, 0.99), Dots(0.0, 0.5)
    sure.name = "sure"
    (face,) = find_faces(Dots.photo(), [doubtful, sure])
    assert (face.found_by, face.doubtful) == ("sure", False)
    (face,) = find_faces(Dots.photo(), [doubtful, Habit()])
    assert (face.found_by, face.doubtful) == ("dots", True)


def test_a_dark_photo_is_brightened_for_the_search():
    """The dots have the colours that the detector knows only in a photo of usual contrast."""
    dark = Dots.photo() * 0.2
    assert len(find_faces(dark, Dots(0.0, 1.0))) == 1
    assert find_faces(dark * 0.1, Dots(0.0, 1.0)) == []  # next to nothing but noise


def test_all_has_a_limit():
    class Many(Dots):
        second_look = False

        def detect(self, image_bchw):
            return super().detect(image_bchw) * 257

    with pytest.raises(PIDiffError, match="257 faces were found, more than the 256"):
        find_faces(Dots.photo(), Many(0.0, 1.0), choice=FaceChoice("all"))
    assert len(find_faces(Dots.photo(), Many(0.0, 1.0), choice=FaceChoice("largest first"))) == 1


class Crowd:
    """A picture of many faces of 40 px in rows; asked about one of them, it finds it with points that hold, or not."""

    name, second_look = "crowd", True

    def __init__(self, count, *, steady):
        self.count, self.steady, self.looks = count, steady, 0

    def detect(self, image_bchw):
        centres = [(30.0 + 60 * (n % 20), 30.0 + 60 * (n // 20)) for n in range(self.count)]
        return [self._face(torch.tensor(centre), 40.0) for centre in centres]

    def detect_large(self, view):
        self.looks += 1
        return [self._face(torch.tensor([111.5, 111.5]), 100.0, spread=0.0)] if self.steady else []

    @staticmethod
    def _face(centre, size, *, spread=0.3):
        """Points in one place do not move when a view is turned about it."""
        five = spread * size * torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.0], [-0.4, 0.6], [0.4, 0.6]]) + centre
        return FaceDetection(torch.cat([centre - size / 2, centre + size / 2]), five, 0.95)


def test_of_a_crowd_the_largest_are_verified_and_the_rest_are_doubtful():
    crowd = Crowd(188, steady=True)
    faces = find_faces(torch.zeros(1, 700, 1240, 3), crowd, choice=FaceChoice("all"))
    assert len(faces) == 188
    assert sum(face.doubtful for face in faces) == 188 - 24
    assert crowd.looks == 24 * 3


@pytest.mark.slow
def test_a_page_of_false_detections_is_not_verified_for_minutes():
    page = Crowd(188, steady=False)
    assert find_faces(torch.zeros(1, 700, 1240, 3), page, choice=FaceChoice("all")) == []
    views = 12
    assert page.looks <= views * 48 * 3 + 8 * (12 + 9)
