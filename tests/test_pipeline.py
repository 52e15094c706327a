"""Photos to codes: every choice on the way, batches, and what users do wrong."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError, register_host
from pidiff_core.face.landmark_input import read_landmarks
from pidiff_core.face.search import FaceChoice, FaceDetection
from pidiff_core.model import PIDiffModel
from pidiff_core.pipeline import FaceOptions, encode_photos
from pidiff_core.wplus.codes import WPlusSpace

POINTS = torch.tensor([[60.0, 50.0], [84.0, 50.0], [72.0, 65.0], [63.0, 78.0], [81.0, 78.0]])
FIVE = " ".join(f"{x},{y}" for x, y in POINTS.tolist())
CONFIG = EncoderConfig(
    image_size=32, num_styles=6, width=5, stem_channels=4, depths=(4, 4, 6, 6), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 1, 3), se_reduction=2,
)  # fmt: skip


class Finds:
    """A detector that knows where the faces are."""

    name = "oracle"

    def __init__(self, *faces):
        self.faces = faces

    def detect(self, image_bchw):
        width = image_bchw.shape[3]
        return [
            FaceDetection(torch.cat([five.amin(dim=0), five.amax(dim=0)]), five, 0.9)
            for five in self.faces
            if width == 160  # the picture as it is, not its enlarged or bordered views
        ]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    space = WPlusSpace("test", 6, 5)
    return PIDiffModel(space, torch.randn(6, 5), encoder=E4eEncoder(CONFIG), source="tiny", crop_size=32)


def photos(batch=1, seed=0):
    return torch.rand(batch, 120, 160, 3, generator=torch.Generator().manual_seed(seed))


def given(value, *, count=1):
    return read_landmarks(value, count=count, size=(120, 160))


def read(model, image, detectors, *, choose="largest first", face_index=0, given=None, mask_bhw=None, **options):
    """What the node does, with an option a keyword."""
    chosen = FaceOptions(detectors=detectors, choice=FaceChoice(choose, face_index), **options)
    return encode_photos(model, image, chosen, landmarks=given, mask_bhw=mask_bhw)


class Elsewhere(torch.Tensor):
    """As on a GPU: it does not meet tensors of the CPU, until it is brought there."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        tensors = [arg for arg in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(arg, torch.Tensor)]
        if any(type(tensor) is torch.Tensor and tensor.ndim > 0 for tensor in tensors):
            raise RuntimeError("Expected all tensors to be on the same device")
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def test_photos_and_masks_may_be_on_another_device(model):
    mask = torch.zeros(120, 160)
    mask[:, :80] = 1.0
    here = read(model, photos(), [Finds(POINTS)], mask_bhw=mask)
    there = read(model, photos().as_subclass(Elsewhere), [Finds(POINTS)], mask_bhw=mask.as_subclass(Elsewhere))
    assert torch.equal(there.wplus.codes, here.wplus.codes)
    assert type(there.masks_bhw) is type(there.crops_bhwc) is torch.Tensor


def test_networks_on_a_device_read_the_same_codes_there(model, device):
    moved = dataclasses.replace(model, encoder=copy.deepcopy(model.encoder).to(device))
    here, there = read(model, photos(), [Finds(POINTS)]), read(moved, photos().to(device), [Finds(POINTS)])
    torch.testing.assert_close(there.wplus.codes, here.wplus.codes, rtol=1e-4, atol=1e-5)
    assert torch.equal(there.crops_bhwc, here.crops_bhwc)
    assert torch.equal(there.masks_bhw, here.masks_bhw)


def test_a_photo_becomes_codes_a_crop_and_a_mask(model):
    reading = read(model, photos(), [Finds(POINTS)])
    assert reading.wplus.codes.shape == (1, 6, 5)
    assert reading.wplus.space == model.space
    assert reading.crops_bhwc.shape == reading.aligned_bhwc.shape == (1, 512, 512, 3)
    assert reading.masks_bhw.shape == (1, 120, 160)
    for x, y in POINTS.int().tolist():
        assert reading.masks_bhw[0, y, x] > 0.95
    assert reading.masks_bhw[0, :, 150].max() == 0.0
    assert reading.crops_bhwc[0, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert "oracle" in reading.wplus.source
    (origin,) = reading.wplus.origin["photos"]
    assert len(origin["picture_sha256"]) == 64
    assert origin["picture_size"] == [160, 120]


def test_the_users_points_are_those_of_a_detector(model):
    mine = read(model, photos(), [], given=given(FIVE))
    found = read(model, photos(), [Finds(POINTS)])
    assert torch.equal(mine.wplus.codes, found.wplus.codes)


def test_a_batch_equals_its_singles(model):
    batch = photos(3)
    together = read(model, batch, [Finds(POINTS)])
    for index in range(3):
        alone = read(model, batch[index : index + 1], [Finds(POINTS)])
        torch.testing.assert_close(together.wplus.codes[index], alone.wplus.codes[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(together.masks_bhw[index], alone.masks_bhw[0])


def test_face_index_goes_from_the_largest_to_the_smallest(model):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    detector = Finds(small, POINTS)
    largest = read(model, photos(), [detector], face_index=0)
    second = read(model, photos(), [detector], face_index=1)
    assert largest.masks_bhw[0, 65, 72] > 0.9
    assert second.masks_bhw[0, 90, 130] > 0.9
    with pytest.raises(PIDiffError, match="Face 2 was asked for, but only 2"):
        read(model, photos(), [detector], face_index=2)


@pytest.mark.parametrize(
    ("box", "x"),
    [("110,70 155,110", 130), ("40,20 110,110", 72), ("5,5 25,35", 15)],
    ids=["second", "first", "none there"],
)
def test_a_box_chooses_among_the_faces_or_stands_in_for_one(model, box, x):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    reading = read(model, photos(), [Finds(POINTS, small)], given=given(box))
    mask = reading.masks_bhw[0]
    assert float((mask * torch.arange(160)).sum() / mask.sum()) == pytest.approx(x, abs=4)


def test_lines_of_landmarks_belong_to_their_photos(model):
    shifted = " ".join(f"{x + 40},{y}" for x, y in POINTS.tolist())
    reading = read(model, photos(2), [], given=given(f"{FIVE}\n{shifted}", count=2))
    alone = read(model, photos(2)[:1], [], given=given(FIVE))
    torch.testing.assert_close(reading.wplus.codes[0], alone.wplus.codes[0], rtol=1e-4, atol=1e-5)
    assert reading.masks_bhw[0, 50, 60] > 0.9
    assert reading.masks_bhw[1, 50, 130] > 0.9
    with pytest.raises(PIDiffError, match="2 lines of landmarks were given for 3 photos"):
        read(model, photos(3), [], given=given(f"{FIVE}\n{shifted}", count=3))


def test_no_face_is_an_error_that_says_what_to_do(model):
    with pytest.raises(PIDiffError, match=r"160x120 pixels .*oracle.*landmarks.*whole image"):
        read(model, photos(), [Finds()])


def test_no_face_can_mean_the_whole_image(model):
    fallback = read(model, photos(), [Finds()], on_no_face="whole image")
    chosen = read(model, photos(), [])
    assert torch.equal(fallback.wplus.codes, chosen.wplus.codes)
    assert fallback.wplus.origin["photos"][0]["found_by"] == "whole image"


def test_pass_through_keeps_a_place_for_a_photo_of_nobody(model):
    batch = photos(3)
    batch[1] = 0.0

    class SeesPatterns(Finds):
        def detect(self, image_bchw):
            return super().detect(image_bchw) if image_bchw.std() > 0.01 else []

    reading = read(model, batch, [SeesPatterns(POINTS)], on_no_face="pass through")
    assert reading.wplus.present == (True, False, True)
    torch.testing.assert_close(reading.wplus.codes[1], model.latent_avg)
    alone = read(model, batch[2:], [Finds(POINTS)])
    torch.testing.assert_close(reading.wplus.codes[2], alone.wplus.codes[0], rtol=1e-4, atol=1e-5)
    assert alone.wplus.present == (True,)
    assert "present" not in alone.wplus.origin
    assert reading.masks_bhw[1].max() == 0.0
    assert reading.crops_bhwc[1].min() == 1.0  # nothing of the photo is kept
    assert reading.wplus.origin["photos"][1]["found_by"] == "no face"
    assert reading.wplus.select(1).present == (False,)


def test_pass_through_without_anybody_is_the_average_person(model):
    reading = read(model, photos(2), [Finds()], on_no_face="pass through")
    assert reading.wplus.present == (False, False)
    torch.testing.assert_close(reading.wplus.codes, model.latent_avg.expand(2, -1, -1))


def test_all_faces_of_all_photos_have_a_code_and_a_mask(model):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    detector = Finds(small, POINTS)
    together = read(model, photos(2), [detector], choose="all")
    assert len(together.wplus) == len(together.crops_bhwc) == len(together.masks_bhw) == 4
    assert together.wplus.source.startswith("4 faces of 2 photos")
    for photo in range(2):
        for index in range(2):
            one = read(model, photos(2)[photo : photo + 1], [detector], face_index=index)
            row = 2 * photo + index
            torch.testing.assert_close(together.wplus.codes[row], one.wplus.codes[0], rtol=1e-4, atol=1e-5)
            assert torch.equal(together.masks_bhw[row], one.masks_bhw[0])


@pytest.mark.parametrize(
    ("choose", "index", "x"), [("left to right", 0, 72), ("left to right", 1, 130), ("top to bottom", -1, 130)]
)
def test_faces_are_chosen_by_place(model, choose, index, x):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    reading = read(model, photos(), [Finds(small, POINTS)], choose=choose, face_index=index)
    mask = reading.masks_bhw[0]
    assert float((mask * torch.arange(160)).sum() / mask.sum()) == pytest.approx(x, abs=4)


def test_another_node_s_faces_are_chosen_like_a_detector_s(model):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    wire = {"frames": [[{"landmarks_xy": five.numpy()} for five in (small, POINTS)]], "image_size": (120, 160)}
    largest = read(model, photos(), [], given=given(wire))
    second = read(model, photos(), [], given=given(wire), face_index=1)
    assert largest.masks_bhw[0, 65, 72] > 0.9
    assert second.masks_bhw[0, 90, 130] > 0.9
    assert len(read(model, photos(), [], given=given(wire), choose="all").wplus) == 2
    empty = {"frames": [[]], "image_size": (120, 160)}
    with pytest.raises(PIDiffError, match=r"No face was found.*the landmarks given"):
        read(model, photos(), [Finds(POINTS)], given=given(empty))


def test_of_all_faces_those_outside_the_mask_are_left_out(model):
    small = (POINTS - POINTS.mean(dim=0)) * 0.4 + torch.tensor([130.0, 90.0])
    mask = torch.zeros(120, 160)
    mask[:, 105:] = 1.0  # the smaller one's half
    reading = read(model, photos(), [Finds(small, POINTS)], choose="all", mask_bhw=mask)
    assert len(reading.wplus) == 1
    assert reading.masks_bhw[0, 90, 130] > 0.9
    with pytest.raises(PIDiffError, match="leaves nothing of the face"):  # a mask of nobody is a mistake
        read(model, photos(), [Finds(small, POINTS)], choose="all", mask_bhw=torch.zeros(120, 160))


def test_a_mask_of_the_background_is_an_error(model):
    mask = torch.ones(120, 160)
    mask[10:110, 30:115] = 0.0  # where the head is
    with pytest.raises(PIDiffError, match=r"keeps [0-4]% of the head.*Invert it"):
        read(model, photos(), [Finds(POINTS)], mask_bhw=mask)


@pytest.mark.parametrize("shape", [(120, 160), (1, 120, 160), (1, 60, 80)])
def test_the_users_mask_decides_what_is_kept(model, shape):
    mask = torch.zeros(shape)
    mask[..., : shape[-1] // 2] = 1.0  # the left half, the face's midline is at x = 72
    reading = read(model, photos(), [Finds(POINTS)], mask_bhw=mask)
    assert reading.masks_bhw[0, 60, 60] > 0.95
    assert reading.masks_bhw[0, 60, 90] < 0.05
    assert reading.crops_bhwc[0, :, -60:].min() == 1.0


def test_a_mask_without_the_face_is_an_error(model):
    with pytest.raises(PIDiffError, match=r"leaves nothing of the face.*Invert it"):
        read(model, photos(), [Finds(POINTS)], mask_bhw=torch.zeros(120, 160))
    with pytest.raises(PIDiffError, match="2 masks were given for 3 photos"):
        read(model, photos(3), [Finds(POINTS)], mask_bhw=torch.ones(2, 120, 160))


def test_the_background_is_the_users_choice(model):
    corner = {
        colour: read(model, photos(), [Finds(POINTS)], background=colour).crops_bhwc[0, 0, 0, 0].item()
        for colour in ("white", "grey", "black", "keep")
    }
    assert [corner["white"], corner["grey"], corner["black"]] == [1.0, 0.5, 0.0]
    reading = read(model, photos(), [Finds(POINTS)], background="keep")
    assert torch.equal(reading.crops_bhwc, reading.aligned_bhwc)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 1, 1, 3), "1x1 pixels, too small"),
        (torch.full((1, 64, 64, 3), torch.nan), "not finite"),
        (torch.zeros(1, 64, 64, 2), "channels"),
        (torch.zeros(64, 64, 3), "B H W C"),
    ],
)
def test_bad_photos_are_refused(model, image, message):
    with pytest.raises(PIDiffError, match=message):
        read(model, image, [Finds(POINTS)])


def test_the_photo_at_fault_is_named(model):
    with pytest.raises(PIDiffError, match="Photo 0 of 2: No face"):
        read(model, photos(2), [Finds()])


def test_a_model_without_encoder_says_so_before_any_work(model):
    bare = PIDiffModel(model.space, model.latent_avg, source="bare")
    with pytest.raises(PIDiffError, match="'bare' has no encoder"):
        read(bare, photos(), [Finds()])


def test_progress_goes_up_within_one_photo_and_ends_near_one(model):
    seen = []
    encode_photos(model, photos(), FaceOptions(detectors=[Finds(), Finds(POINTS)]), on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert sum(0.0 < done < 0.8 for done in seen) >= 5  # views of the one photo
    assert 0.8 <= seen[-1] <= 1.0


def test_the_host_can_stop_the_work_between_any_two_views(model):
    class Cancelled(Exception):
        pass

    class Cancels(Finds):
        views = 0

        def detect(self, image_bchw):
            self.views += 1
            if self.views == 3:
                register_host(cancel, Cancelled)
            return []

    def cancel():
        raise Cancelled

    detector = Cancels()
    try:
        with pytest.raises(Cancelled):
            read(model, photos(3), [detector])
    finally:
        register_host(lambda: None)
    assert detector.views == 3


def test_grey_and_transparent_photos_are_read(model):
    grey = read(model, torch.rand(1, 120, 160, 1), [Finds(POINTS)])
    clear = read(model, torch.cat([photos(), torch.ones(1, 120, 160, 1)], dim=3), [Finds(POINTS)])
    assert grey.wplus.codes.isfinite().all()
    assert torch.equal(clear.wplus.codes, read(model, photos(), [Finds(POINTS)]).wplus.codes)


def test_a_doubtful_face_is_named_in_the_record_the_source_and_a_warning(model):
    class Doubts(Finds):
        def detect(self, image_bchw):
            return [dataclasses.replace(face, doubtful=True) for face in super().detect(image_bchw)]

    options = FaceOptions(detectors=[Doubts(POINTS)])
    encoded = encode_photos(model, photos(2), options)
    assert [record.get("doubtful") for record in encoded.wplus.origin["photos"]] == [True, True]
    assert "(doubtful)" in encoded.wplus.source
    assert encoded.warnings[0].startswith("Faces 0 (oracle), 1 (oracle) are doubtful")
    sure = encode_photos(model, photos(), FaceOptions(detectors=[Finds(POINTS)]))
    assert sure.warnings == ()
    assert "doubtful" not in sure.wplus.origin["photos"][0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 0, 160), "is empty"),
        (torch.zeros(0, 160), "is empty"),
        (torch.full((120, 160), torch.nan), "not finite"),
        (torch.zeros(1, 1, 120, 160), "B H W"),
        (torch.zeros(160), "B H W"),
    ],
)
def test_odd_masks_are_errors_before_any_search(model, mask, message):
    class Never(Finds):
        def detect(self, image_bchw):
            raise AssertionError("was asked")

    with pytest.raises(PIDiffError, match=message):
        read(model, photos(), [Never()], mask_bhw=mask)


def test_a_mask_of_bytes_or_truths_is_read_like_one_of_floats(model):
    mask = torch.zeros(120, 160)
    mask[:, :80] = 1.0
    expected = read(model, photos(), [Finds(POINTS)], mask_bhw=mask).wplus.codes
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        assert torch.equal(read(model, photos(), [Finds(POINTS)], mask_bhw=mask.to(dtype)).wplus.codes, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_no_face": "guess"}, "on_no_face should be one of error, pass through, whole image, but it is 'guess'"),
        ({"background": "pink"}, "background should be one of white, grey, black, keep, but it is 'pink'"),
        ({"choose": "by age"}, "'by age' was asked for"),
        ({"face_index": 0.5}, "face_index should be a whole number, but it is 0.5"),
        ({"face_index": float("nan")}, "face_index should be a whole number, but it is nan"),
    ],
)
def test_choices_that_do_not_exist_are_refused(model, options, message):
    with pytest.raises(PIDiffError, match=message):
        read(model, photos(), [Finds(POINTS)], **options)


@pytest.mark.parametrize(
    ("five", "message"),
    [
        (POINTS + 5000, "outside of the photo of 160x120"),
        (POINTS * 1e5, "px away from the picture"),
        (POINTS * 0 + 7, "not a face"),
    ],
)
def test_landmarks_far_outside_the_photo_are_errors(model, five, message):
    with pytest.raises(PIDiffError, match=message):
        read(model, photos(), [], given=given([five.tolist()]))


def test_a_photo_is_never_copied_whole(model):
    """Of 49 megapixels, a copy in another layout or range is 600 MB: the parts that are needed are cut out."""
    import resource

    photo = torch.rand(1, 3000, 4000, 3)
    points = POINTS * 10 + 500
    known = read_landmarks([points.tolist()], count=1, size=(3000, 4000))
    read(model, photos(), [], given=given(FIVE))  # what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoded = read(model, photo, [], given=known)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert encoded.masks_bhw.shape == (1, 3000, 4000)
    assert grown < 1.5 * photo.numel() * 4  # a third of it is the mask
