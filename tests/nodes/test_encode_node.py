"""EncodeIdentityW+ in ComfyUI: pictures of every kind as Load Image gives them, and what the node's inputs do."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

FIVE = "60,50 84,50 72,65 63,78 81,78"
ENCODER = {
    "image_size": 32, "num_styles": 6, "width": 5, "stem_channels": 4, "units": (1, 1, 1, 1), "depths": (4, 4, 6, 6),
    "head_channels": 4, "heads": (2, 1, 3), "se_reduction": 2,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    import nodes as host_nodes

    (comfy.base / "input").mkdir(exist_ok=True)
    pack.load("nodes.host.folders").register()
    return SimpleNamespace(
        encode=pack.load("nodes.encode").EncodeIdentity,
        load_image=host_nodes.LoadImage().load_image,
        error=pack.load("pidiff_core.errors").PIDiffError,
        input=comfy.base / "input",
        pack=pack,
    )


@pytest.fixture(scope="module")
def model(pack):
    torch.manual_seed(0)
    config = pack.load("pidiff_core.e4e.config").EncoderConfig(**ENCODER)
    return pack.load("pidiff_core.model").PIDiffModel(
        pack.load("pidiff_core.wplus.codes").WPlusSpace("test", 6, 5),
        torch.randn(6, 5),
        encoder=pack.load("pidiff_core.e4e.encoder").E4eEncoder(config),
        crop_size=32,
        source="tiny",
    )


@pytest.fixture(scope="module")
def pixels():
    """A smooth picture of 160 x 120, so that 8 bits and 16 give the same."""
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(120, 160), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def encode(nodes, model, image, **options):
    chosen = {"detector": "auto", "face_index": 0, "on_no_face": "error", "landmarks": FIVE} | options
    return nodes.encode.execute(model, image, **chosen).result


def through_load_image(nodes, picture, name, **save):
    picture.save(nodes.input / name, **save)
    return nodes.load_image(name)


def test_a_turned_phone_photo_is_read_upright(nodes, model, pixels):
    upright = encode(nodes, model, through_load_image(nodes, Image.fromarray(pixels), "upright.png")[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    lying = Image.fromarray(np.rot90(pixels, 1).copy())
    image, _ = through_load_image(nodes, lying, "phone.png", exif=exif)
    assert tuple(image.shape) == (1, 120, 160, 3)
    assert torch.equal(encode(nodes, model, image)[0].codes, upright[0].codes)


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "LA", "CMYK"])
def test_grey_deep_and_indexed_pictures_are_read(nodes, model, pixels, mode):
    grey = Image.fromarray(pixels).convert("L")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    else:
        picture = (grey if mode in ("L", "LA") else Image.fromarray(pixels)).convert(mode)
    name = f"picture_{mode.replace(';', '')}.{'tiff' if mode == 'CMYK' else 'png'}"
    image, _ = through_load_image(nodes, picture, name)
    wplus, aligned, mask = encode(nodes, model, image)
    assert wplus.codes.isfinite().all()
    assert tuple(mask.shape) == (1, 120, 160)
    if mode in ("L", "LA"):  # of 16-bit grey, Load Image itself leaves next to nothing but white: see below
        same = encode(nodes, model, through_load_image(nodes, grey.convert("RGB"), "grey.png")[0])
        torch.testing.assert_close(aligned, same[1], atol=0.01, rtol=0)


def test_sixteen_bits_of_colour_are_read(nodes, model, pixels):
    """Load Image reads such files with 8 bits; a 16-bit IMAGE of another node has its own precision."""
    deep = torch.from_numpy(pixels.astype(np.float32) / 255)[None] + 0.4 / 255
    plain, _ = through_load_image(nodes, Image.fromarray(pixels), "plain.png")
    difference = encode(nodes, model, deep.clamp(0, 1))[1] - encode(nodes, model, plain)[1]
    assert 0 < float(difference.abs().max()) <= 0.5 / 255


def test_sixteen_bits_of_grey_are_read_by_the_pack_itself(nodes, model, pixels):
    """ComfyUI's Load Image clips 16-bit grey files to white; the pack's own reader, which scripts use, does not."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(nodes.input / "deep.png")
    Image.fromarray(grey).save(nodes.input / "shallow.png")
    load = nodes.pack.load("pidiff_core.images").load_image
    deep, shallow = (load(nodes.input / name) for name in ("deep.png", "shallow.png"))
    torch.testing.assert_close(encode(nodes, model, deep)[1], encode(nodes, model, shallow)[1], atol=1e-4, rtol=0)


def test_a_cut_out_s_mask_has_to_be_inverted_and_the_error_says_so(nodes, model, pixels):
    alpha = np.zeros((120, 160), dtype=np.uint8)
    alpha[10:110, 30:115] = 255  # the head stays
    cut_out = Image.fromarray(np.dstack([pixels, alpha]))
    image, mask = through_load_image(nodes, cut_out, "cut_out.png")
    with pytest.raises(nodes.error, match=r"Invert it .Load Image's mask is 1 for transparent pixels"):
        encode(nodes, model, image, mask=mask)
    _, aligned, face_mask = encode(nodes, model, image, mask=1.0 - mask)
    assert face_mask[0, 60, 72] > 0.95
    assert face_mask[0, 60, 20] < 0.05
    assert aligned[0, :, -4:].min() > 0.99


def test_four_channels_and_batches_are_read(nodes, model):
    batch = torch.rand(2, 120, 160, 4, generator=torch.Generator().manual_seed(0))
    wplus, aligned, mask = encode(nodes, model, batch)
    assert (len(wplus), len(aligned), len(mask)) == (2, 2, 2)


def test_a_call_from_before_the_newer_inputs_still_works(nodes, model):
    """Queued workflows and scripts name their inputs: those of the first version, which never change."""
    first = ["pidiff_model", "image", "detector", "face_index", "on_no_face", "mask", "landmarks", "background"]
    schema = [entry.id for entry in nodes.encode.GET_SCHEMA().inputs]
    assert schema[: len(first)] == first
    assert all(entry.optional for entry in nodes.encode.GET_SCHEMA().inputs[len(first) :])
    assert list(inspect.signature(nodes.encode.execute).parameters)[: len(first)] == first
    image = torch.rand(1, 120, 160, 3)
    positional = nodes.encode.execute(model, image, "auto", 0, "error", None, FIVE, "white").result
    assert torch.equal(positional[0].codes, encode(nodes, model, image)[0].codes)


def test_another_node_s_landmarks_need_no_detector(nodes, model):
    image = torch.rand(1, 120, 160, 3)
    five = np.array([float(number) for pair in FIVE.split() for number in pair.split(",")]).reshape(5, 2)
    other = five + np.array([60.0, 20.0])
    wire = {"frames": [[{"landmarks_xy": other}, {"landmarks_xy": five}]], "image_size": (120, 160)}
    wplus, _, _ = encode(nodes, model, image, landmarks="", face_landmarks=wire, choose="left to right")
    assert torch.equal(wplus.codes, encode(nodes, model, image)[0].codes)
    every = encode(nodes, model, image, landmarks="", face_landmarks=wire, choose="all")
    assert [len(output) for output in every] == [2, 2, 2]
    with pytest.raises(nodes.error, match="Both landmarks and face_landmarks"):
        encode(nodes, model, image, face_landmarks=wire)


def test_the_socket_takes_the_host_s_landmarks_and_pose_keypoints(nodes):
    kind, _ = nodes.encode.INPUT_TYPES()["optional"]["face_landmarks"]
    assert set(kind.split(",")) == {"FACE_LANDMARKS", "POSE_KEYPOINT"}


def test_a_photo_without_a_face_can_be_passed_through(nodes, model):
    image = torch.rand(2, 120, 160, 3)
    wire = [{"people": [], "canvas_width": 160, "canvas_height": 120}]
    wplus, _, masks = encode(nodes, model, image, landmarks="", face_landmarks=wire, on_no_face="pass through")
    assert wplus.present == (False, False)
    assert masks.max() == 0.0


def test_a_parser_that_is_missing_names_folders_files_and_links(nodes, model):
    with pytest.raises(nodes.error, match=r"parsing_parsenet\.pth.*79999_iter\.pth.*github\.com.*models/pidiff.*geom"):
        encode(nodes, model, torch.rand(1, 120, 160, 3), background_mask="parser")


def test_a_parser_s_file_is_found_and_used(nodes, model, comfy):
    files, bisenet = nodes.pack.load("nodes.host.face_files"), nodes.pack.load("pidiff_core.face.parsers.bisenet")
    folder = comfy.base / "models" / "facexlib"
    folder.mkdir(parents=True)
    path = folder / "parsing_bisenet.pth"
    try:
        torch.manual_seed(0)
        torch.save(bisenet.BiSeNet().state_dict(), path)
        with torch.inference_mode():
            found = encode(nodes, model, torch.rand(1, 120, 160, 3), background_mask="parser")
        assert found[0].origin["photos"][0]["mask_by"] in ("bisenet", "landmarks")
        kept = weakref.ref(files.face_parser("parser", model=model))
        gc.collect()
        assert kept() is files.face_parser("auto", model=model)  # as long as the model is there
        assert files.face_parser("auto", model=model, detector="model") is None  # drawn faces are not what it knows
        assert files.face_parser("geometric", model=model) is None
    finally:
        path.unlink()


class SeesOne:
    """A detector of drawn squares, for the node's own messages: finds a face at FIVE, and is not sure of it."""

    name = "oracle"

    def __init__(self, pack, *, doubtful=False, on_view=lambda: None):
        self.face = pack.load("pidiff_core.face.search").FaceDetection
        self.doubtful, self.on_view = doubtful, on_view

    def detect(self, image_bchw):
        self.on_view()
        five = torch.tensor([[float(number) for number in pair.split(",")] for pair in FIVE.split()])
        box = torch.cat([five.amin(dim=0), five.amax(dim=0)])
        return [self.face(box, five, 0.9, doubtful=self.doubtful)]


def test_a_doubtful_face_is_named_on_the_node_and_in_the_log(nodes, model, pack, caplog):
    image = torch.rand(1, 120, 160, 3)
    unsure = dataclasses.replace(model, detector=SeesOne(pack, doubtful=True))
    output = nodes.encode.execute(unsure, image, detector="model", face_index=0, on_no_face="error")
    assert "Face 0 (oracle) is doubtful" in output.ui["text"][0]
    assert "Face 0 (oracle) is doubtful" in caplog.text
    assert output.result[0].origin["photos"][0]["doubtful"] is True
    sure = dataclasses.replace(model, detector=SeesOne(pack))
    output = nodes.encode.execute(sure, image, detector="model", face_index=0, on_no_face="error")
    assert "doubtful" not in output.ui["text"][0]
    assert "pidiff_warnings" not in output.ui


@pytest.mark.parametrize("on_no_face", ["error", "pass through", "whole image"])
def test_cancel_ends_the_search_and_is_never_taken_for_a_photo_without_a_face(nodes, model, pack, on_no_face):
    import comfy.model_management as management

    pack.load("nodes.host.progress").register()
    views = []

    def cancel():
        views.append(None)
        management.interrupt_current_processing(True)

    model = dataclasses.replace(model, detector=SeesOne(pack, on_view=cancel))
    try:
        with pytest.raises(management.InterruptProcessingException):
            encode(nodes, model, torch.rand(3, 120, 160, 3), detector="model", on_no_face=on_no_face, landmarks="")
    finally:
        management.interrupt_current_processing(False)
    assert len(views) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"face_index": float("nan")}, "face_index should be a whole number"),
        ({"on_no_face": "nan"}, "on_no_face should be one of"),
        ({"background": ""}, "background should be one of"),
        ({"background_mask": "magic"}, "background_mask should be one of"),
        ({"landmarks": "nan,nan 1,1"}, "not finite"),
        ({"mask": torch.full((1, 120, 160), torch.nan)}, "not finite"),
        ({"mask": torch.zeros(1, 0, 160)}, "is empty"),
    ],
)
def test_values_beyond_the_widgets_are_errors(nodes, model, options, message):
    """The API sends what it likes."""
    with pytest.raises(nodes.error, match=message):
        encode(nodes, model, torch.rand(1, 120, 160, 3), **options)
