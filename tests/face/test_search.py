"""Finding faces: the search over views of the picture, and the real detectors on real photos."""

from __future__ import annotations

import os

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.detectors import yunet
from pidiff_core.face.detectors.auto import choose_detectors
from pidiff_core.face.detectors.mtcnn import MTCNNDetector
from pidiff_core.face.detectors.yunet import YuNetDetector
from pidiff_core.face.search import FaceDetection, find_faces
from pidiff_core.images import bchw_to_bhwc, bhwc_to_bchw

POINTS = torch.tensor([[40.0, 30.0], [60.0, 30.0], [50.0, 42.0], [43.0, 54.0], [57.0, 54.0]])
COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, -1, 1]])


class DotDetector:
    """Finds one face drawn as five coloured squares, if it is upright and between two sizes: eyes to mouth, in px."""

    name = "dots"

    def __init__(self, smallest=0.0, largest=1e9):
        self.smallest, self.largest = smallest, largest
        self.views = []

    def detect(self, image_bchw):
        self.views.append(tuple(image_bchw.shape[-2:]))
        points = []
        for colour in COLOURS:
            hit = ((image_bchw[0] - colour[:, None, None]).abs().amax(dim=0) < 0.5).nonzero().float()
            if not len(hit):
                return []
            points.append(hit.mean(dim=0).flip(0))
        five = torch.stack(points)
        down = five[3:].mean(dim=0) - five[:2].mean(dim=0)
        if down[1] < 2 * down[0].abs() or not self.smallest <= float(down[1]) <= self.largest:
            return []
        return [FaceDetection(torch.cat([five.amin(dim=0), five.amax(dim=0)]), five, 1.0)]


def drawn(points=POINTS, height=90, width=120, half=2):
    image = torch.full((1, 3, height, width), -0.2)
    for (x, y), colour in zip(points.round().int().tolist(), COLOURS):
        image[0, :, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = colour[:, None, None]
    return image


@pytest.mark.parametrize(
    ("detector", "factor", "views"),
    [(DotDetector(), 1, 1), (DotDetector(smallest=60), 1, 3), (DotDetector(largest=130), 8, 2)],
    ids=["at once", "enlarged", "reduced and bordered"],
)
def test_points_come_back_in_the_pictures_own_pixels(detector, factor, views):
    points = POINTS * factor
    (face,) = find_faces(bchw_to_bhwc(drawn(points, 90 * factor, 120 * factor, half=2 * factor)), detector)
    torch.testing.assert_close(face.landmarks, points, atol=0.6, rtol=0)
    assert len(detector.views) == views


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_lying_faces_are_found_and_their_points_turned_back(turns):
    upright = drawn()
    image = torch.rot90(upright, -turns, dims=(2, 3))
    (face,) = find_faces(bchw_to_bhwc(image), DotDetector())
    height, width = image.shape[-2:]
    for (x, y), colour in zip(face.landmarks.round().int().tolist(), COLOURS):
        assert 0 <= x < width
        assert 0 <= y < height
        assert torch.equal(image[0, :, y, x], colour)
    assert (face.box_xyxy[2:] > face.box_xyxy[:2]).all()


def test_no_view_is_shown_twice_and_an_empty_picture_has_no_face():
    detector = DotDetector()
    assert find_faces(torch.zeros(1, 2048, 64, 3), detector) == []
    assert len(detector.views) == 11  # a picture that is 2048 px long already is not enlarged to that again


def test_the_first_detector_to_find_anything_decides():
    blind, sees, never = DotDetector(1e6), DotDetector(), DotDetector()
    assert len(find_faces(bchw_to_bhwc(drawn()), [blind, sees, never])) == 1
    assert blind.views
    assert not never.views


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 1, 1, 3), "1x1 pixels, too small"),
        (torch.zeros(2, 64, 64, 3), "one photo at a time"),
        (torch.zeros(1, 64, 64, 4), r"B H W 3"),
    ],
)
def test_bad_pictures_are_refused(image, message):
    with pytest.raises(PIDiffError, match=message):
        find_faces(image, DotDetector())


class TestChoice:
    def test_whole_image_asks_no_detector(self):
        assert choose_detectors("whole image", own=DotDetector()) == []

    def test_auto_takes_mtcnn_and_not_the_models_own(self):
        assert [found.name for found in choose_detectors("auto", own=DotDetector())] == ["mtcnn"]

    def test_yunet_without_its_file_names_the_file_and_the_folders(self):
        with pytest.raises(PIDiffError, match=r"yunet_final\.pth.*models/pidiff.*/somewhere"):
            choose_detectors("yunet", searched=["/somewhere"])

    def test_the_models_own_detector_alone(self):
        assert [found.name for found in choose_detectors("model", own=DotDetector())] == [DotDetector().name]
        with pytest.raises(PIDiffError, match="no detector of its own"):
            choose_detectors("model")

    def test_an_unknown_choice_is_refused(self):
        with pytest.raises(PIDiffError, match="'psychic'"):
            choose_detectors("psychic")

    def test_a_wrong_weights_file_is_refused(self, tmp_path):
        torch.save({"weight": torch.ones(1)}, tmp_path / "yunet_final.pth")
        with pytest.raises(PIDiffError, match=r"missing.*left over: weight"):
            choose_detectors("yunet", yunet_path=str(tmp_path / "yunet_final.pth"))


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data", reason="scikit-image (extra dev) is not installed")
    return torch.from_numpy(data.astronaut()).float()[None] / 255


ASTRONAUT = torch.tensor([[205.0, 103.0], [247.0, 104.0], [225.0, 129.0], [203.0, 140.0], [245.0, 142.0]])


class TestMTCNN:
    def test_the_astronaut(self, astronaut):
        (face,) = find_faces(astronaut, MTCNNDetector())
        torch.testing.assert_close(face.landmarks, ASTRONAUT, atol=6, rtol=0)
        assert 80 < face.size_px < 160

    @pytest.mark.parametrize(
        ("top", "left", "height", "width", "scale"),
        [(60, 170, 110, 110, 1), (60, 170, 110, 110, 8), (0, 0, 512, 512, 0.14)],
        ids=["filling the frame", "filling a large frame", "tiny"],
    )
    def test_the_astronaut_cut_and_scaled(self, astronaut, top, left, height, width, scale):
        part = bhwc_to_bchw(astronaut[:, top : top + height, left : left + width])
        part = torch.nn.functional.interpolate(part, scale_factor=scale, mode="bilinear", antialias=scale < 1)
        face = find_faces(bchw_to_bhwc(part), MTCNNDetector())[0]
        expected = (ASTRONAUT - torch.tensor([left, top]) + 0.5) * scale - 0.5
        torch.testing.assert_close(face.landmarks, expected, atol=8 * max(scale, 0.5), rtol=0)

    def test_the_astronaut_on_her_side(self, astronaut):
        face = find_faces(torch.rot90(astronaut, 1, dims=(1, 2)), MTCNNDetector())[0]
        expected = torch.stack([ASTRONAUT[:, 1], 511 - ASTRONAUT[:, 0]], dim=1)
        torch.testing.assert_close(face.landmarks, expected, atol=8, rtol=0)

    @pytest.mark.parametrize(
        "image", [torch.zeros(1, 200, 300, 3), torch.zeros(1, 16, 16, 3), torch.zeros(1, 17, 900, 3)]
    )
    def test_nothing_is_found_where_nothing_is(self, image):
        assert find_faces(image, MTCNNDetector()) == []


@pytest.fixture
def random_yunet(tmp_path):
    """A weights file of YuNet's layout with random numbers: the published file is not part of any package."""
    from kornia.contrib.face_detection import YuNet

    torch.manual_seed(0)
    state = YuNet("test", pretrained=False).state_dict()
    torch.save(state, tmp_path / "yunet_final.pth")
    return tmp_path / "yunet_final.pth"


class TestYuNet:
    def test_it_is_read_without_chance_and_again_when_its_file_changes(self, random_yunet):
        chance = torch.get_rng_state()
        with torch.inference_mode():  # as nodes run
            (first,) = choose_detectors("yunet", yunet_path=str(random_yunet))
        assert torch.equal(torch.get_rng_state(), chance)
        assert choose_detectors("yunet", yunet_path=str(random_yunet)) == [first]
        os.utime(random_yunet, ns=(random_yunet.stat().st_atime_ns, random_yunet.stat().st_mtime_ns + 1))
        assert choose_detectors("yunet", yunet_path=str(random_yunet)) != [first]

    def test_it_decodes_as_kornia_does(self, random_yunet, astronaut):
        kornia = pytest.importorskip("kornia.models.yunet.processors", reason="this kornia has no yunet.processors")
        with torch.no_grad():
            out = YuNetDetector(random_yunet).network((bhwc_to_bchw(astronaut).flip(1) + 1) * 127.5)
        sizes, steps = [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]], [8, 16, 32, 64]
        priors = kornia.PriorBox(sizes, steps, False, image_size=(512, 512))()
        expected = kornia.decode(out["loc"][0], priors, [0.1, 0.2]) * 512
        boxes, points = yunet._decode(out["loc"][0], yunet._priors(512, 512))
        torch.testing.assert_close(boxes, expected[:, :4], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(points.flatten(1), expected[:, 4:14], atol=1e-2, rtol=1e-4)

    def test_of_boxes_that_overlap_the_best_one_stays(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 4, 4]])
        assert yunet._best(boxes, torch.tensor([0.5, 0.9, 0.8, 0.7])) == [1, 2, 3]

    def test_with_the_published_weights(self, reference_dir, astronaut):
        detector = YuNetDetector(reference_dir / "yunet_final.pth")
        (face,) = find_faces(astronaut, detector)
        torch.testing.assert_close(face.landmarks, ASTRONAUT, atol=6, rtol=0)
        for scale in (0.5, 4.0, 6.0):  # beyond the largest box that the network knows, too
            part = bhwc_to_bchw(astronaut[:, 40:200, 140:300])
            part = torch.nn.functional.interpolate(part, scale_factor=scale, mode="bilinear", antialias=scale < 1)
            face = max(detector.detect(part), key=lambda found: found.size_px)
            expected = (ASTRONAUT - torch.tensor([140.0, 40.0]) + 0.5) * scale - 0.5
            assert float((face.landmarks - expected).norm(dim=1).mean()) < 0.06 * 110 * scale
        for shape in ((200, 333), (63, 90), (65, 64)):
            assert find_faces(torch.zeros(1, *shape, 3), detector) == []
