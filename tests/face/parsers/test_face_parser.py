"""Face parsers: told by what is in the file, and what they keep of a person."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.crop import head_mask
from pidiff_core.face.landmark_input import read_landmarks
from pidiff_core.face.parsers import face_parser as parsing
from pidiff_core.face.parsers.bisenet import BiSeNet
from pidiff_core.face.parsers.face_parser import FaceParser, load_parser
from pidiff_core.face.parsers.parsenet import ParseNet
from pidiff_core.pipeline import FaceOptions, crop_faces

FIVE = "60,50 84,50 72,65 63,78 81,78"
NETWORKS = {"bisenet": BiSeNet, "parsenet": ParseNet}
# Background and clothes in the order of each network's classes; 1 is the skin in both, 17 BiSeNet's hair.
LEFT_OUT = {"bisenet": (0, 16), "parsenet": (0, 18)}


@pytest.fixture(scope="module", params=NETWORKS)
def parser(request, tmp_path_factory):
    """Read from a file as published, under a name that says nothing."""
    path = tmp_path_factory.mktemp("parsers") / "weights.pth"
    torch.manual_seed(0)
    torch.save(NETWORKS[request.param]().state_dict(), path)
    parser = FaceParser(path)
    path.unlink()
    assert parser.name == request.param
    return parser


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """The networks take pictures of any size; the published one costs seconds a picture on a CPU."""
    if "parser" in request.fixturenames:
        monkeypatch.setattr(parsing, "_SIZE_PX", 64)


def always(parser, number):
    """Let the network see one class everywhere."""
    state = parser.network.ready().state_dict()
    with torch.no_grad():
        if parser.name == "bisenet":
            state["conv_out.conv.bn.weight"].zero_()
            state["conv_out.conv.bn.bias"].fill_(1.0)
            state["conv_out.conv_out.weight"].zero_()[number] = 1.0
        else:
            state["out_mask_conv.conv2d.weight"].zero_()
            state["out_mask_conv.conv2d.bias"].zero_()[number] = 1.0


def test_everything_but_background_and_clothes_is_kept(parser, device):
    parser.network.ready().to(device)
    image = torch.zeros(1, 3, 64, 64, device=device)
    for number in (0, 1, 13, 16, 17, 18):
        always(parser, number)
        mask = parser.person_mask(image)
        assert mask.shape == (1, 1, 64, 64)
        assert mask.unique().tolist() == [float(number not in LEFT_OUT[parser.name])]


def test_eyes_and_face_are_the_classes_of_the_published_networks(parser):
    image = torch.zeros(1, 3, 64, 64)
    nose, ear, hair = {"bisenet": (10, 7, 17), "parsenet": (2, 8, 13)}[parser.name]
    for number, in_eyes, in_face in ((4, 1, 1), (5, 1, 1), (1, 0, 1), (nose, 0, 1), (ear, 0, 0), (hair, 0, 0)):
        always(parser, number)
        eyes, face = parser.eyes_and_face(image)
        assert eyes.unique().tolist() == [in_eyes], number
        assert face.unique().tolist() == [in_face], number


def test_a_crop_is_masked_by_the_parser_and_by_an_oval_where_it_sees_no_person(parser):
    photo = torch.rand(1, 120, 160, 3)
    (given,) = read_landmarks(FIVE, count=1, size=(120, 160))
    always(parser, 1)
    (crop,) = crop_faces(photo, FaceOptions(parser=parser), landmarks=given, size=128)
    assert crop.mask.min() == 1.0
    assert crop.origin["mask_by"] == parser.name
    always(parser, 0)
    (crop,) = crop_faces(photo, FaceOptions(parser=parser), landmarks=given, size=128)
    assert crop.origin["mask_by"] == "landmarks"
    torch.testing.assert_close(crop.mask, head_mask(crop.aligned.landmarks, size=(128, 128)))


def test_the_users_mask_comes_before_the_parser(parser):
    always(parser, 1)
    (given,) = read_landmarks(FIVE, count=1, size=(120, 160))
    mask = torch.zeros(1, 1, 120, 160)
    mask[..., :72] = 1.0
    (crop,) = crop_faces(
        torch.zeros(1, 120, 160, 3), FaceOptions(parser=parser), landmarks=given, mask_b1hw=mask, size=128
    )
    assert crop.origin["mask_by"] == "user"
    assert crop.mask[..., -20:].max() == 0.0


def test_a_file_is_read_once_until_it_changes(tmp_path):
    path = tmp_path / "parsing_bisenet.pth"
    torch.save(BiSeNet().state_dict(), path)
    parser = load_parser(str(path))
    assert load_parser(str(path)) is parser
    before, times = parser.person_mask(torch.zeros(1, 3, 40, 40)), path.stat()
    always(parser, 0)
    torch.save(parser.network.ready().state_dict(), path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # a float of seconds does not tell the two apart
    changed = load_parser(str(path))
    assert changed is not parser
    assert changed.person_mask(torch.zeros(1, 3, 40, 40)).max() == 0.0
    assert before.max() == 1.0
    assert parser.person_mask(torch.zeros(1, 3, 40, 40)).shape == (1, 1, 512, 512)
    with pytest.raises(PIDiffError, match="Cannot read"):
        load_parser(str(tmp_path / "missing.pth"))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_parser_is_read_without_chance_and_goes_with_the_last_who_holds_it(tmp_path, name):
    torch.save(NETWORKS[name]().state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    chance = torch.get_rng_state()
    parser = load_parser(str(tmp_path / "weights.pth"))
    assert torch.equal(torch.get_rng_state(), chance)
    held = weakref.ref(parser.network.ready())
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in held().parameters())
    del parser
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(1)}, "not a face parser that PIDiff knows: it holds weight"),
        ([torch.ones(1)], "it holds a list"),
        ({**BiSeNet().state_dict(), "extra": torch.ones(1)}, "left over: extra"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "79999_iter.pth")
    with pytest.raises(PIDiffError, match=message):
        FaceParser(tmp_path / "79999_iter.pth")
