"""Which detectors to ask, in which order, from the user's choice and from what is installed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ..errors import PIDiffError
from .detection import FaceDetection, FaceDetector
from .file_version import file_version
from .insightface import InsightFaceDetector, insightface_installed, insightface_model
from .mediapipe import MediaPipeDetector, mediapipe_installed
from .mtcnn import MTCNNDetector, mtcnn_installed
from .yunet import YuNetDetector

CHOICES = ("auto", "mtcnn", "insightface", "mediapipe", "yunet", "model", "whole image")
YUNET_FILE = "yunet_final.pth"
YUNET_LINK = "github.com/kornia/data"


_warned: set[str] = set()  # detectors of "auto" whose failure has been said


@functools.lru_cache(maxsize=1)
def _yunet(path: str, _version: tuple[int, int]) -> YuNetDetector:
    return YuNetDetector(path)


def _load_yunet(path: str) -> YuNetDetector:
    return _yunet(path, file_version(path))


class _IfItLoads:
    """A detector that nobody asked for by name: where it is broken, it finds nothing, and a process says so once.

    Args:
        name: the detector's.
        load: makes it, when it is first asked.
    """

    second_look = True

    def __init__(self, name: str, load: Callable[[], FaceDetector]) -> None:
        self.name = name
        self._load = load
        self._detector: FaceDetector | None = None
        self._broken = False

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        if self._broken:
            return []
        try:
            self._detector = self._detector or self._load()
            return self._detector.detect(image_bchw)
        except Exception as error:  # a package or a file that is broken raises anything
            if self.name not in _warned:
                logging.warning("PIDiff goes on without the face detector %s: %s", self.name, error)
                _warned.add(self.name)
            self._broken = True
            self.name += " (broken: see the log)"  # where no face is found, the error lists who was asked
            return []


def choose_detectors(
    choice: str,
    *,
    own: FaceDetector | None = None,
    yunet_path: str | None = None,
    insightface_root: Path | str | None = None,
    searched: Sequence[str] = (),
) -> list[FaceDetector]:
    """The detectors to ask, the best one first; none for "whole image".

    Args:
        choice: one of CHOICES. "auto" is whatever is at hand, in the order of CHOICES; one that is broken is
            left out with a warning. The model's own takes no part, for it may see faces in photos that have none.
            "model" is the model's own alone.
        own: the detector that comes with the PIDiff model, for pictures of its own kind.
        yunet_path: YuNet's weights file, where there is one.
        insightface_root: the folder with InsightFace's models/buffalo_l, in ComfyUI models/insightface.
        searched: the folders that were searched for it, for the error.

    Raises:
        PIDiffError: an unknown choice, or a detector that is not at hand.
    """
    if choice == "whole image":
        return []
    places = f" (searched: {', '.join(searched)})" if searched else ""
    get_yunet = f"put {YUNET_FILE} from {YUNET_LINK} into the folder models/pidiff{places}"
    if choice == "mtcnn":
        return [MTCNNDetector()]  # says itself what to install
    if choice == "insightface":
        return [InsightFaceDetector(insightface_root)]
    if choice == "mediapipe":
        return [MediaPipeDetector()]
    if choice == "yunet":
        if yunet_path is None:
            raise PIDiffError(f"The YuNet detector has no weights file: {get_yunet}, or choose another detector.")
        return [_load_yunet(yunet_path)]
    if choice == "model":
        if own is None:
            raise PIDiffError("This PIDiff model brings no detector of its own: choose another detector instead.")
        return [own]
    if choice != "auto":
        raise PIDiffError(f"The detector should be one of {', '.join(CHOICES)}, but it is '{choice}'.")
    found: list[FaceDetector] = []
    if mtcnn_installed():
        found.append(_IfItLoads(MTCNNDetector.name, MTCNNDetector))
    if insightface_installed() and insightface_model(insightface_root):
        found.append(_IfItLoads(InsightFaceDetector.name, lambda: InsightFaceDetector(insightface_root)))
    if mediapipe_installed():
        found.append(_IfItLoads(MediaPipeDetector.name, MediaPipeDetector))
    if (weights := yunet_path) is not None:
        found.append(_IfItLoads(YuNetDetector.name, lambda: _load_yunet(weights)))
    if not found:
        raise PIDiffError(
            "No face detector is at hand. Install one with `pip install --no-deps facenet-pytorch`, or "
            f"{get_yunet}, or give the face's landmarks or box, or choose 'whole image' for an aligned portrait."
        )
    return found
