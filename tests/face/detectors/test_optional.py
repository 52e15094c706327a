"""Detectors of packages that users may have: the real packages where they are installed, the errors where not."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.detectors.auto import choose_detectors
from pidiff_core.face.detectors.insightface import InsightFaceDetector, insightface_installed, insightface_model
from pidiff_core.face.detectors.mediapipe import MediaPipeDetector, mediapipe_installed
from pidiff_core.face.search import find_faces
from pidiff_core.images import bchw_to_bhwc, bhwc_to_bchw, transform_points, turn

ASTRONAUT = torch.tensor([[205.0, 103.0], [247.0, 104.0], [225.0, 129.0], [203.0, 140.0], [245.0, 142.0]])


@pytest.mark.skipif(not mediapipe_installed(), reason="no mediapipe with `solutions` (below 0.10.30) is installed")
@pytest.mark.parametrize("degrees", [0, 45, 180])
def test_mediapipe_finds_the_astronaut(degrees):
    data = pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    image, to_picture = turn(bhwc_to_bchw(torch.from_numpy(data.astronaut()).float()[None] / 255), degrees)
    (face,) = find_faces(bchw_to_bhwc(image), MediaPipeDetector())
    torch.testing.assert_close(transform_points(to_picture, face.landmarks), ASTRONAUT, atol=6, rtol=0)


def test_a_mediapipe_that_is_missing_or_too_new_says_what_to_install():
    if mediapipe_installed():
        pytest.skip("mediapipe is installed, so that there is no such error")
    assert "mediapipe" not in {found.name for found in at_hand(None)}
    with pytest.raises(PIDiffError, match=r"MediaPipe detector needs.*mediapipe<0\.10\.30.*face_landmarks"):
        choose_detectors("mediapipe")[0].detect(torch.zeros(1, 3, 64, 64))


def test_insightface_without_its_files_names_the_folder_and_downloads_nothing(tmp_path):
    nested = tmp_path / "models" / "buffalo_l" / "buffalo_l"  # an archive unpacked one level too deep
    nested.mkdir(parents=True)
    (nested / "det_10g.onnx").touch()
    assert insightface_model(tmp_path) is None
    with pytest.raises(PIDiffError, match=r"none of buffalo_l.*is in .*models.*Nothing is downloaded"):
        choose_detectors("insightface", insightface_root=tmp_path)
    assert "insightface" not in {found.name for found in at_hand(tmp_path)}


def test_an_insightface_that_cannot_be_used_says_so(tmp_path):
    model(tmp_path).write_bytes(b"no network")
    assert insightface_model(tmp_path) == "buffalo_l"
    detector = InsightFaceDetector(tmp_path)
    message = "cannot use the files in .*buffalo_l" if insightface_installed() else "needs the insightface and onnx"
    with pytest.raises(PIDiffError, match=message):
        detector.detect(torch.zeros(1, 3, 64, 64))


@pytest.mark.skipif(not insightface_installed(), reason="insightface and onnxruntime are not installed")
def test_auto_goes_on_without_a_broken_insightface(tmp_path, caplog):
    model(tmp_path).write_bytes(b"no network")
    broken = next(found for found in at_hand(tmp_path) if found.name == "insightface")
    assert broken.detect(torch.zeros(1, 3, 64, 64)) == broken.detect(torch.zeros(1, 3, 64, 64)) == []
    assert caplog.text.count("continues without the face detector insightface") == 1


@pytest.mark.skipif(
    not insightface_installed() or importlib.util.find_spec("onnx") is None,
    reason="insightface, onnxruntime and onnx are not installed",
)
def test_insightface_runs_a_network_and_its_points_are_the_pictures(tmp_path):
    """A network of SCRFD's form that sees one face, always at the same place, in red pictures."""
    red_face_network(model(tmp_path))
    detector = InsightFaceDetector(tmp_path)
    red, blue = torch.full((2, 1, 3, 320, 320), -1.0)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    (face,) = detector.detect(red)
    # anchor (10, 10) of the 32 px map is at (320, 320) of 640, where the picture is twice its size
    torch.testing.assert_close(face.box_xyxy, torch.tensor([144.0, 128.0, 176.0, 192.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(
        face.landmarks[:, 0], 160 + 16 * torch.tensor([-0.5, 0.5, 0.0, -0.25, 0.25]), atol=0.2, rtol=0
    )
    torch.testing.assert_close(
        face.landmarks[:, 1], 160 + 16 * torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]), atol=0.2, rtol=0
    )
    assert face.score > 0.9
    assert detector.detect(blue) == []


def at_hand(root):
    """The detectors of "auto", which is an error where there are none."""
    try:
        return choose_detectors("auto", insightface_root=root)
    except PIDiffError:
        return []


def model(root):
    folder = root / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    return folder / "det_10g.onnx"


def red_face_network(path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants, nodes, outputs = [], [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    # Redness in about [-1, 1], of the first channel of the network's RGB input.
    constants.append(numpy_helper.from_array(np.asarray([0], dtype=np.int64), "first"))
    nodes.append(helper.make_node("Gather", ["input.1", "first"], ["red"], axis=1))
    nodes.append(helper.make_node("ReduceMax", ["red"], ["redness"], keepdims=0))
    for part, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            values = np.zeros((2 * (640 // stride) ** 2, width), dtype=np.float32)
            if stride == 32:
                anchor = 2 * (10 * 20 + 10)
                values[anchor] = {
                    "score": [0.95],
                    "box": [1.0, 2.0, 1.0, 2.0],
                    "points": [-0.5, -1, 0.5, -1, 0, 0, -0.25, 1, 0.25, 1],
                }[part]
            name = f"{part}{stride}"
            nodes.append(helper.make_node("Mul", [constant(f"{name}_is", values), "redness"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))
    shape = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "scrfd", [shape], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
