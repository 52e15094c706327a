"""Face recognisers that this project did not train: judges of identity from outside.

A recogniser that took part in training or selection proves nothing. Nothing is downloaded: dlib's weights are in the
package face-recognition-models (public domain by its author), those of InsightFace and FaceNet in the user's folders.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import PIDiffError
from ..files.pickles import load_pickle
from ..files.weights import load_strict
from ..images import bhwc_to_bchw, check_image_bhwc, pil_from_image, resize_bchw
from .detectors.insightface import insightface_installed, insightface_model
from .detectors.mtcnn import MTCNNDetector, mtcnn_installed

CHOICES = ("auto", "dlib", "insightface", "facenet")
# The names under which facenet-pytorch publishes its weights; a file is read whatever its name.
FACENET_FILES = ("20180402-114759-vggface2.pt", "20180408-102900-casia-webface.pt")
FACENET_LINK = "github.com/timesler/facenet-pytorch (releases, v2.2.9)"
_DLIB_FILES = ("shape_predictor_68_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat")
_FACENET_PX = 160
_DLIB_LEAST_PX = 256  # dlib's finder sees faces from 80 px on: smaller pictures are enlarged to this shorter side
_DLIB_MOST_PX = 1024
_DLIB_UNSURE = -0.3  # the finder's threshold at the second try; 0 is its own


class Recogniser(Protocol):
    """Turns a picture into numbers that are near for pictures of one person.

    Attributes:
        name: for tables.
        same_below: distance below which its authors take two faces for one person.
    """

    name: str
    same_below: float

    def vector(self, image_bhwc: Tensor) -> Tensor | None:
        """The largest face of one picture (1, H, W, 3) in [0, 1] as a vector (V,); None if it finds no face."""


class DlibRecogniser:
    """dlib's ResNet of 128 numbers (King 2017), with dlib's own face finder and its 68 landmarks. Runs on the CPU.

    Raises:
        PIDiffError: the packages are not installed.
    """

    name = "dlib"
    same_below = 0.6

    def __init__(self) -> None:
        try:
            import dlib
        except ImportError as error:
            raise PIDiffError(f"The recogniser dlib is not installed ({error}). {_INSTALL}") from error
        folder = _dlib_models()
        if folder is None:
            raise PIDiffError(f"The weights of the recogniser dlib are not installed. {_INSTALL}")
        landmarks, network = (str(folder / name) for name in _DLIB_FILES)
        self._find = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(landmarks)
        self._network = dlib.face_recognition_model_v1(network)

    def vector(self, image_bhwc: Tensor) -> Tensor | None:
        """See `Recogniser`."""
        picture = pil_from_image(check_image_bhwc(image_bhwc))
        for shorter_px, threshold in ((_DLIB_LEAST_PX, 0.0), (_DLIB_LEAST_PX, _DLIB_UNSURE), (512, _DLIB_UNSURE)):
            scale = max(1.0, shorter_px / min(picture.size))
            scale = min(scale, _DLIB_MOST_PX / max(picture.size))
            size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
            pixels = np.array(picture if size == picture.size else picture.resize(size))
            boxes, _, _ = self._find.run(pixels, 0, threshold)
            if len(boxes):
                box = max(boxes, key=lambda one: one.area())
                numbers = self._network.compute_face_descriptor(pixels, self._landmarks(pixels, box))
                return torch.tensor(list(numbers), dtype=torch.float32)
        return None


class InsightFaceRecogniser:
    """ArcFace (Deng et al. 2019) from the user's InsightFace models: licensed for research only by their authors.

    Raises:
        PIDiffError: package or models are missing.
    """

    name = "insightface"
    same_below = 0.6  # 1 - cosine

    def __init__(self, root: str | Path | None = None) -> None:
        if not insightface_installed() or insightface_model(root) is None:
            raise PIDiffError(
                "The recogniser insightface needs the package insightface and its models buffalo_l. Install them, or "
                "choose dlib."
            )
        from insightface.app import FaceAnalysis

        self._faces = FaceAnalysis(
            name="buffalo_l",
            root=str(root) if root else "~/.insightface",
            allowed_modules=["detection", "recognition"],
            providers=["CPUExecutionProvider"],
        )
        self._faces.prepare(ctx_id=-1)

    def vector(self, image_bhwc: Tensor) -> Tensor | None:
        """See `Recogniser`; normalised, divided by the square root of 2 so that distance^2 is 1 - cosine."""
        pixels = np.array(pil_from_image(check_image_bhwc(image_bhwc)))[:, :, ::-1]
        faces: list[Any] = self._faces.get(np.ascontiguousarray(pixels))
        if not faces:
            return None
        face = max(faces, key=lambda one: (one.bbox[2] - one.bbox[0]) * (one.bbox[3] - one.bbox[1]))
        return torch.from_numpy(face.normed_embedding).float() / 2**0.5


class FaceNetRecogniser:
    """FaceNet (Schroff et al. 2015) as facenet-pytorch trained it, from a weights file of the user; MTCNN finds faces.

    Args:
        weights: the file, one of FACENET_FILES.

    Raises:
        PIDiffError: facenet-pytorch is not installed, no file, or another file.
    """

    name = "facenet"
    same_below = 1.0  # of two vectors of length 1

    def __init__(self, weights: str | Path | None) -> None:
        if weights is None:
            raise PIDiffError(
                f"The recogniser facenet needs a weights file: put {' or '.join(FACENET_FILES)} from {FACENET_LINK} "
                "into the folder models/pidiff, or choose dlib."
            )
        self._find = MTCNNDetector()  # its error names the package to install
        from facenet_pytorch import InceptionResnetV1

        state = load_pickle(weights)
        if not isinstance(state, dict) or "conv2d_1a.conv.weight" not in state or "last_linear.weight" not in state:
            raise PIDiffError(
                f"{weights} is not a file of FaceNet's weights. Expected: {' or '.join(FACENET_FILES)} from "
                f"{FACENET_LINK}."
            )
        network = InceptionResnetV1(pretrained=None, classify=False)
        known = {name: tensor for name, tensor in state.items() if not name.startswith("logits.")}  # the classifier
        load_strict(network, known, name=f"the recogniser in {Path(weights).name}", dtype=torch.float32)
        self._network = network.eval().requires_grad_(False)

    def vector(self, image_bhwc: Tensor) -> Tensor | None:
        """See `Recogniser`; of length 1."""
        image_bchw = bhwc_to_bchw(image_bhwc)
        faces = self._find.detect(image_bchw)
        if not faces:
            return None
        face = max(faces, key=lambda one: one.size_px)
        left, top, right, bottom = (round(float(side)) for side in face.box_xyxy)
        height, width = image_bchw.shape[-2:]
        left, top = max(0, min(left, width - 2)), max(0, min(top, height - 2))
        crop = image_bchw[..., top : max(top + 2, bottom), left : max(left + 2, right)]
        with torch.no_grad():
            return self._network(resize_bchw(crop, _FACENET_PX) * (255.0 / 256.0))[0].float().cpu()


def recogniser(
    choice: str = "auto",
    *,
    insightface_root: str | Path | None = None,
    facenet_weights: str | Path | None = None,
) -> Recogniser:
    """The judge: one of CHOICES; "auto" is the first of them that is installed.

    Args:
        choice: its name.
        insightface_root: the folder with InsightFace's models/buffalo_l; None: its own.
        facenet_weights: one of FACENET_FILES, if there is one.

    Raises:
        PIDiffError: an unknown choice, or nothing that is installed.
    """
    if choice == "dlib":
        return DlibRecogniser()
    if choice == "insightface":
        return InsightFaceRecogniser(insightface_root)
    if choice == "facenet":
        return FaceNetRecogniser(facenet_weights)
    if choice != "auto":
        raise PIDiffError(f"The recogniser should be one of {', '.join(CHOICES)}, but it is '{choice!s:.40}'.")
    if importlib.util.find_spec("dlib") is not None and _dlib_models() is not None:
        return DlibRecogniser()
    if insightface_installed() and insightface_model(insightface_root) is not None:
        return InsightFaceRecogniser(insightface_root)
    if facenet_weights is not None and mtcnn_installed():
        return FaceNetRecogniser(facenet_weights)
    raise PIDiffError(f"No face recogniser is installed. {_INSTALL}")


def vectors(judge: Recogniser, images_bhwc: Tensor | Sequence[Tensor]) -> list[Tensor | None]:
    """One vector for each picture (H, W, 3) of a batch or list; None for those without a face."""
    return [judge.vector(image[None]) for image in images_bhwc]


_INSTALL = "Install it with: pip install dlib-bin face-recognition-models==0.1.3"


def _dlib_models() -> Path | None:
    """The folder of face-recognition-models' weights, without importing it: it needs a package that newer pips lack."""
    spec = importlib.util.find_spec("face_recognition_models")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place) / "models"
        if all((folder / name).is_file() for name in _DLIB_FILES):
            return folder
    return None
