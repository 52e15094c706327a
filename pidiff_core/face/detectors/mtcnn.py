"""MTCNN from the facenet-pytorch package, whose wheel carries its weights: the detector that needs no download.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (arXiv 1604.02878).
Version 2.5.3 asks for no version of torch; later ones pin an old one.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...errors import check_interrupted, explained
from ...images import check_image_bchw
from ..search import FaceDetection

_MIN_FACE_PX = 20  # the smallest face that is looked for; the search enlarges pictures of smaller ones
_MIN_LARGE_FACE_PX = 48  # the same for `detect_large`
_MIN_SCORE = 0.9  # below it, MTCNN finds faces in wallpaper


def mtcnn_installed() -> bool:
    """Whether facenet-pytorch is installed, without importing it."""
    return importlib.util.find_spec("facenet_pytorch") is not None


@functools.lru_cache(maxsize=1)
def _networks() -> Any:
    with explained(  # broken packages and cut files raise anything
        lambda error: (
            f"The MTCNN detector needs the facenet-pytorch package ({type(error).__name__}: {error}). Install it with "
            "`pip install facenet-pytorch==2.5.3`, or give the face's landmarks."
        )
    ):
        from facenet_pytorch import MTCNN

        with torch.random.fork_rng(devices=[]):  # its networks are random before their weights are read
            networks = MTCNN(keep_all=True, select_largest=False, min_face_size=_MIN_FACE_PX, device="cpu")
        for name in ("pnet", "rnet", "onet"):  # one picture takes seconds, most of them in a dozen calls of these
            if (network := getattr(networks, name, None)) is not None:
                network.register_forward_pre_hook(lambda *_: check_interrupted())
        return networks


class MTCNNDetector:
    """Finds faces of any size with five points. Runs on the CPU; the networks are loaded once, at the first use."""

    name = "mtcnn"
    second_look = True
    confirmed_up_to = 0.052  # see `search`: a drawn animal has 0.053 to 0.055, the faces of `bench.py faces` have less

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """One picture (1, 3, H, W) in [-1, 1] -> its faces."""
        return self._detect(image_bchw, _MIN_FACE_PX)

    def detect_large(self, image_bchw: Tensor) -> list[FaceDetection]:
        """The same for faces of about 50 px and more, in a fraction of the time: the pyramid of scales is shorter."""
        return self._detect(image_bchw, _MIN_LARGE_FACE_PX)

    def _detect(self, image_bchw: Tensor, smallest_px: int) -> list[FaceDetection]:
        sizes = check_image_bchw(image_bchw)
        if min(sizes["H"], sizes["W"]) < _MIN_FACE_PX:
            return []  # no scale of its pyramid would be left
        pixels = rearrange((image_bchw.float().cpu() + 1.0) * 127.5, "1 c h w -> h w c")
        networks = copy.copy(_networks())  # shares the weights; another thread's smallest face is its own
        networks.min_face_size = smallest_px
        with explained(
            lambda error: (
                f"MTCNN fails ({type(error).__name__}: {error}). Install facenet-pytorch again, or choose another "
                "detector."
            )
        ):
            try:
                boxes, scores, points = networks.detect(pixels, landmarks=True)
            except (RuntimeError, ValueError) as error:
                if "non-empty" not in str(error):
                    raise
                return []  # every candidate was outside of the picture
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
