"""InsightFace from the user's own `insightface` package, with the model files that other packs have put there.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (SCRFD, arXiv 2105.04714). Its package
downloads models that it does not find; here it is asked only for those that are on the disk.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...errors import PIDiffError, explained
from ...images import check_image_bchw
from ..search import FaceDetection

MODELS = ("buffalo_l", "antelopev2", "buffalo_m", "buffalo_s", "buffalo_sc")
_INPUT_PX = 640  # the picture is fitted into a square of that side
_MIN_SCORE = 0.5


def insightface_installed() -> bool:
    """Whether insightface and onnxruntime are installed, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in ("insightface", "onnxruntime"))


def insightface_model(root: Path | str | None) -> str | None:
    """The first of MODELS whose files are in root/models/NAME; None if there is none."""
    if root is None:
        return None
    return next((name for name in MODELS if any((Path(root) / "models" / name).glob("*.onnx"))), None)


@functools.lru_cache(maxsize=1)
def _detector(root: str, name: str) -> Any:
    with explained(  # a package that was built for another numpy raises a ValueError
        lambda error: (
            "The InsightFace detector needs the insightface and onnxruntime packages, and they cannot be imported "
            f"({type(error).__name__}: {error}). Install them again, or choose another detector."
        )
    ):
        import onnxruntime
        from insightface.app import FaceAnalysis
    with explained(  # ONNX raises errors of every kind on damaged or foreign files
        lambda error: (
            f"InsightFace cannot use the files in {Path(root) / 'models' / name} ({type(error).__name__}: {error}). "
            "Unpack them again, or choose another detector."
        )
    ):
        providers = [entry for entry in onnxruntime.get_available_providers() if entry == "CPUExecutionProvider"]
        analysis = FaceAnalysis(name=name, root=root, allowed_modules=["detection"], providers=providers)
        analysis.prepare(ctx_id=-1, det_thresh=_MIN_SCORE, det_size=(_INPUT_PX, _INPUT_PX))
    return analysis


class InsightFaceDetector:
    """Finds faces of any size with five points. Runs on the CPU.

    Args:
        root: the folder that has models/buffalo_l (or another of MODELS), in ComfyUI models/insightface.

    Raises:
        PIDiffError: it has no model.
    """

    name = "insightface"
    second_look = True

    def __init__(self, root: Path | str | None) -> None:
        model = insightface_model(root)
        if root is None or model is None:
            raise PIDiffError(
                f"InsightFace has no model: none of {', '.join(MODELS)} with its .onnx files is in "
                f"{Path(root or 'models/insightface') / 'models'}. Unpack buffalo_l.zip from "
                "github.com/deepinsight/insightface (release v0.7) there, so that the files are directly in "
                "models/buffalo_l, or choose another detector. Nothing is downloaded."
            )
        self.root, self.model = str(root), model

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """One picture (1, 3, H, W) in [-1, 1] -> its faces."""
        check_image_bchw(image_bchw)
        bgr = rearrange((image_bchw.float().cpu().flip(1) + 1.0) * 127.5, "1 c h w -> h w c")
        analysis, pixels = _detector(self.root, self.model), bgr.round().clamp(0, 255).to(torch.uint8).numpy()
        with explained(  # ONNX raises errors of every kind on networks that are not a detector
            lambda error: (
                f"InsightFace's model {self.model} fails ({type(error).__name__}: {error}). Unpack its files again, or "
                "choose another detector."
            )
        ):
            found = analysis.get(pixels)
        return [
            FaceDetection(
                torch.tensor(face.bbox.tolist(), dtype=torch.float32),
                torch.tensor(face.kps.tolist(), dtype=torch.float32),
                float(face.det_score),
            )
            for face in found
            if face.kps is not None
        ]
