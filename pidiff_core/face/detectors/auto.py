"""Which detectors to use, in which order: the user's choice, and those that are installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ...errors import PIDiffError, passes_through
from ...files.cache import shared_file
from ..search import FaceDetection, FaceDetector, large_face_detector
from .insightface import InsightFaceDetector, insightface_installed, insightface_model
from .mediapipe import MediaPipeDetector, mediapipe_installed
from .mtcnn import MTCNNDetector, mtcnn_installed
from .yunet import YuNetDetector

CHOICES = ("auto", "mtcnn", "insightface", "mediapipe", "yunet", "model", "whole image")
YUNET_FILE = "yunet_final.pth"
YUNET_LINK = "github.com/kornia/data"


_warned: set[str] = set()  # detectors of "auto" whose failure the log has reported


def _load_yunet(path: str) -> YuNetDetector:
    return shared_file(path, "yunet", YuNetDetector)


class OptionalDetector:
    """A detector that "auto" found: if it is broken, it finds nothing, with one warning in the log per process.

    Args:
        name: the detector's.
        load: makes it, when it is first asked.
        limits: the detector's own `confirmed_up_to` and `doubtful_up_to`, if it has them.
    """

    second_look = True

    def __init__(self, name: str, load: Callable[[], FaceDetector], **limits: float) -> None:
        self.name = name
        self.__dict__.update(limits)
        self._load = load
        self._detector: FaceDetector | None = None
        self._broken = False

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        return self._asked(lambda detector: detector.detect(image_bchw))

    def detect_large(self, image_bchw: Tensor) -> list[FaceDetection]:
        return self._asked(lambda detector: large_face_detector(detector)(image_bchw))

    def _asked(self, ask: Callable[[FaceDetector], list[FaceDetection]]) -> list[FaceDetection]:
        if self._broken:
            return []
        try:
            self._detector = self._detector or self._load()
            return ask(self._detector)
        except Exception as error:  # a package or a file that is broken raises anything
            if passes_through(error):
                raise
            if self.name not in _warned:
                logging.warning("PIDiff continues without the face detector %s: %s", self.name, error)
                _warned.add(self.name)
            self._broken = True
            self.name += " (broken: see the log)"  # the error for a photo without a face lists the detectors
            return []


def choose_detectors(
    choice: str,
    *,
    own: FaceDetector | None = None,
    yunet_path: str | None = None,
    insightface_root: Path | str | None = None,
    searched: Sequence[str] = (),
) -> list[FaceDetector]:
    """The detectors to ask, the best one first; an empty list for "whole image".

    Args:
        choice: one of CHOICES. "auto" takes every detector that is installed, in the order of CHOICES; a broken one is
            left out with a warning. The model's own is not among them, because it may see faces in photos that have
            none. "model" is the model's own alone.
        own: the detector that comes with the PIDiff model, for pictures of its own kind.
        yunet_path: YuNet's weights file, if there is one.
        insightface_root: the folder with InsightFace's models/buffalo_l, in ComfyUI models/insightface.
        searched: the folders that were searched for it, for the error.

    Raises:
        PIDiffError: an unknown choice, or a detector that is not installed.
    """
    if choice == "whole image":
        return []
    places = f" (searched: {', '.join(searched)})" if searched else ""
    get_yunet = f"put {YUNET_FILE} from {YUNET_LINK} into the folder models/pidiff{places}"
    if choice == "mtcnn":
        return [MTCNNDetector()]  # its own error names the package to install
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
            raise PIDiffError("This PIDiff model has no detector of its own. Choose another detector.")
        return [own]
    if choice != "auto":
        raise PIDiffError(f"The detector should be one of {', '.join(CHOICES)}, but it is '{choice}'.")
    found: list[FaceDetector] = []
    if mtcnn_installed():
        found.append(OptionalDetector(MTCNNDetector.name, MTCNNDetector, confirmed_up_to=MTCNNDetector.confirmed_up_to))
    if insightface_installed() and insightface_model(insightface_root):
        found.append(OptionalDetector(InsightFaceDetector.name, lambda: InsightFaceDetector(insightface_root)))
    if mediapipe_installed():
        found.append(OptionalDetector(MediaPipeDetector.name, MediaPipeDetector))
    if (weights := yunet_path) is not None:
        found.append(
            OptionalDetector(
                YuNetDetector.name, lambda: _load_yunet(weights), doubtful_up_to=YuNetDetector.doubtful_up_to
            )
        )
    if not found:
        raise PIDiffError(
            "No face detector is installed. Install one with `pip install facenet-pytorch==2.5.3`, or "
            f"{get_yunet}, or give the face's landmarks or box, or choose 'whole image' for an aligned portrait."
        )
    return found
