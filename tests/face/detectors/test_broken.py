"""Detectors whose packages or files are broken: "auto" goes on without them, and a choice by name says what to do."""

from __future__ import annotations

import sys

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.detectors import auto as choose
from pidiff_core.face.detectors import insightface, mediapipe, mtcnn
from pidiff_core.face.detectors.auto import choose_detectors
from pidiff_core.pipeline import FaceOptions, crop_faces

EMPTY = torch.zeros(1, 3, 64, 64)
BROKEN = {  # what such packages raise where they are imported
    "facenet_pytorch": 'raise RuntimeError("operator torchvision::nms does not exist")',
    "insightface": 'raise ValueError("numpy.dtype size changed")',
    "mediapipe": 'raise TypeError("Descriptors cannot be created directly")',
}
FAILING = {  # packages that load, and fail at work
    "facenet_pytorch": "class MTCNN:\n    def __init__(self, **_): pass\n    def detect(self, *_, **__): return 1 / 0",
    "insightface": "",
    "insightface/app": "class FaceAnalysis:\n    def __init__(self, **_): pass\n    def prepare(self, **_): pass\n"
    "    def get(self, _): return 1 / 0",
    "mediapipe": "class solutions:\n    class face_mesh:\n        class FaceMesh:\n"
    "            def __init__(self, **_): pass\n            def process(self, _): return 1 / 0",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts packages with these sources in front of all others, and InsightFace's and YuNet's files into a folder."""
    caches = (mtcnn._networks, insightface._detector, mediapipe._mesh)
    names = ("facenet_pytorch", "insightface", "insightface.app", "mediapipe", "onnxruntime")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(choose, "_warned", set())
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(sources):
        for cache in caches:
            cache.cache_clear()
        for name, source in {**sources, "onnxruntime": "def get_available_providers(): return []"}.items():
            folder = tmp_path / "site" / name
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text(source)
        solutions = tmp_path / "site" / "mediapipe" / "python" / "solutions"
        solutions.mkdir(parents=True)
        (solutions / "face_mesh.py").touch()
        model = tmp_path / "models" / "buffalo_l"
        model.mkdir(parents=True)
        (model / "det_10g.onnx").touch()
        torch.save({"weight": torch.ones(1)}, tmp_path / "yunet_final.pth")
        return {"insightface_root": tmp_path, "yunet_path": str(tmp_path / "yunet_final.pth")}

    yield install
    for cache in caches:
        cache.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("sources", [BROKEN, FAILING], ids=["at import", "at work"])
def test_auto_goes_on_without_what_is_broken_and_says_so_once(installed, sources, caplog):
    files = installed(sources)
    for _ in range(2):  # every run of the node chooses anew
        detectors = choose_detectors("auto", **files)
        assert [found.name for found in detectors] == ["mtcnn", "insightface", "mediapipe", "yunet"]
        assert [found.detect(EMPTY) for found in detectors] == [[]] * 4
    for name in ("mtcnn", "insightface", "mediapipe", "yunet"):
        assert caplog.text.count(f"continues without the face detector {name}:") == 1
    with pytest.raises(PIDiffError, match=r"mtcnn \(broken: see the log\), insightface \(broken"):
        crop_faces(torch.zeros(1, 64, 64, 3), FaceOptions(detectors=detectors))


@pytest.mark.parametrize("sources", [BROKEN, FAILING], ids=["at import", "at work"])
@pytest.mark.parametrize(
    ("name", "message"), [("mtcnn", "MTCNN"), ("insightface", "InsightFace"), ("mediapipe", "MediaPipe")]
)
def test_a_broken_detector_that_was_asked_for_is_an_error_with_its_cause(installed, sources, name, message):
    files = installed(sources)
    cause = "ZeroDivisionError" if sources is FAILING else "(RuntimeError|ValueError|TypeError): "
    with pytest.raises(PIDiffError, match=rf"{message}.*{cause}.*(another detector|landmarks)"):
        choose_detectors(name, **files)[0].detect(EMPTY)


@pytest.mark.parametrize("error", ["MemoryError()", "KeyboardInterrupt()", 'RuntimeError("CUDA out of memory.")'])
@pytest.mark.parametrize("name", ["mtcnn", "insightface", "mediapipe"])
@pytest.mark.parametrize("when", ["at import", "at work"])
@pytest.mark.parametrize("choice", ["auto", "by name"])
def test_memory_that_ran_out_is_not_a_broken_detector(installed, error, name, when, choice, caplog):
    """Then *whole image* would read wrong codes without an error."""
    sources = (
        dict.fromkeys(BROKEN, f"raise {error}")
        if when == "at import"
        else {package: source.replace("return 1 / 0", f"raise {error}") for package, source in FAILING.items()}
    )
    files = installed(sources)
    detectors = choose_detectors("auto", **files) if choice == "auto" else choose_detectors(name, **files)
    detector = next(found for found in detectors if found.name == name)
    with pytest.raises((MemoryError, KeyboardInterrupt, RuntimeError), match=r"^$|out of memory"):
        detector.detect(EMPTY)
    assert "continues without" not in caplog.text
    with pytest.raises((MemoryError, KeyboardInterrupt, RuntimeError)):  # asked again: it was not taken out
        crop_faces(torch.zeros(1, 64, 64, 3), FaceOptions(detectors=[detector], on_no_face="whole image"))
