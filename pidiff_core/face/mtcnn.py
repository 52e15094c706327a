"""MTCNN from the facenet-pytorch package, whose wheel carries its weights: the detector that needs no download.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (arXiv 1604.02878).
The package pins old versions of torch: install it with `pip install --no-deps facenet-pytorch`; it runs on new ones.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bchw
from .detection import FaceDetection

_MIN_FACE_PX = 20  # the smallest face that is looked for; the search enlarges pictures of smaller ones
_MIN_SCORE = 0.9  # below it, MTCNN finds faces in wallpaper


def mtcnn_installed() -> bool:
    """Whether facenet-pytorch is there, without importing it."""
    return importlib.util.find_spec("facenet_pytorch") is not None


@functools.lru_cache(maxsize=1)
def _networks() -> Any:
    try:
        from facenet_pytorch import MTCNN

        with torch.random.fork_rng(devices=[]):  # its networks are random before their weights are read
            return MTCNN(keep_all=True, select_largest=False, min_face_size=_MIN_FACE_PX, device="cpu")
    except Exception as error:  # broken packages and cut files raise anything
        raise PIDiffError(
            f"The MTCNN detector needs the facenet-pytorch package ({type(error).__name__}: {error}). "
            "Install it with `pip install --no-deps facenet-pytorch`, or give the face's landmarks."
        ) from error


class MTCNNDetector:
    """Finds faces of any size with five points. Runs on the CPU; the networks are loaded once, at the first use."""

    name = "mtcnn"
    second_look = True

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """One picture (1, 3, H, W) in [-1, 1] -> its faces."""
        sizes = check_image_bchw(image_bchw)
        if min(sizes["H"], sizes["W"]) < _MIN_FACE_PX:
            return []  # not one scale of its pyramid would be left
        pixels = rearrange((image_bchw.float().cpu() + 1.0) * 127.5, "1 c h w -> h w c")
        networks = _networks()
        try:
            boxes, scores, points = networks.detect(pixels, landmarks=True)
        except Exception as error:
            if "non-empty" in str(error):  # every candidate fell outside of the picture
                return []
            raise PIDiffError(
                f"MTCNN fails ({type(error).__name__}: {error}). Install facenet-pytorch again, or choose another "
                "detector."
            ) from error
        if boxes is None:
            return []
        return [
            FaceDetection(
                torch.tensor(box.tolist(), dtype=torch.float32),
                torch.tensor(five.tolist(), dtype=torch.float32),
                float(score),
            )
            for box, score, five in zip(boxes, scores, points)
            if score >= _MIN_SCORE
        ]
