"""MediaPipe's face mesh from the user's own `mediapipe` package, whose wheel carries the models.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs" (arXiv 1907.06724). Versions
from 0.10.30 on have neither the solution nor its models; newer ComfyUI has nodes of its own for it, whose landmarks
EncodeIdentityW+ takes: see `landmark_input`.
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
from ..landmark_input import five_points
from ..search import FaceDetection

_MOST_FACES = 16  # the mesh is fitted to each in turn
_MIN_SCORE = 0.5
_MESH = Path("python", "solutions", "face_mesh.py")


def mediapipe_installed() -> bool:
    """Whether a mediapipe with the face mesh in it is installed, without importing it."""
    spec = importlib.util.find_spec("mediapipe")
    return spec is not None and any((Path(place) / _MESH).is_file() for place in spec.submodule_search_locations or ())


@functools.lru_cache(maxsize=1)
def _mesh() -> Any:
    with explained(  # a mediapipe that was built for another protobuf raises a TypeError
        lambda error: (
            "The MediaPipe detector needs a mediapipe package with `solutions`, as up to version 0.10.21 "
            f"({type(error).__name__}: {error}). "
            'Install one with `pip install "mediapipe<0.10.30"`, choose another detector, or connect the output of '
            "ComfyUI's own node Detect Face Landmarks (MediaPipe) to face_landmarks."
        )
    ):
        import mediapipe

        return mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True,
            max_num_faces=_MOST_FACES,
            refine_landmarks=True,
            min_detection_confidence=_MIN_SCORE,
        )


class MediaPipeDetector:
    """Finds faces, best of some size, with 478 points. Runs on the CPU."""

    name = "mediapipe"
    second_look = True

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """One picture (1, 3, H, W) in [-1, 1] -> its faces; MediaPipe gives no scores, so that each has 1."""
        sizes = check_image_bchw(image_bchw)
        rgb = rearrange((image_bchw.float().cpu() + 1.0) * 127.5, "1 c h w -> h w c")
        mesh, pixels = _mesh(), rgb.round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
        with explained(
            lambda error: (
                f"MediaPipe's face mesh fails ({type(error).__name__}: {error}). Install the package again, or choose "
                "another detector."
            )
        ):
            found = mesh.process(pixels).multi_face_landmarks
        size = torch.tensor([sizes["W"], sizes["H"]], dtype=torch.float32)
        faces = []
        for face in found or ():
            points = torch.tensor([[point.x, point.y] for point in face.landmark]) * size - 0.5
            box = torch.cat([points.amin(dim=0), points.amax(dim=0)])
            try:
                faces.append(FaceDetection(box, five_points(points), 1.0))
            except PIDiffError:  # a mesh that has collapsed into a point
                continue
        return faces
