"""YuNet: kornia's network with a weights file of the user's (`yunet_final.pth`, 0.4 MB).

Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023. Only the network is kornia's; boxes and points are
decoded here, because kornia has moved those functions around from version to version.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ...errors import PIDiffError, explained
from ...files.pickles import load_pickle
from ...files.weights import load_strict
from ...images import check_image_bchw, pixel_scaling, resize_bchw
from ..search import FaceDetection

_MIN_BOXES_PX = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))  # box sizes of each of the four maps
_STEPS_PX = (8, 16, 32, 64)  # pixels between two cells of each map
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_MIN_SCORE = 0.8  # below it, YuNet finds faces in cups, cats and rockets
_MIN_SCORE_AGAIN = 0.5  # near a face that was found before, to refine its points
_GOOD_FACE_PX = 160.0  # a size at which the points are near those of other detectors
_MAX_OVERLAP = 0.3  # of two boxes with a larger intersection over union, the better one stays


class YuNetDetector:
    """Finds faces with five points; quick, and good at small ones.

    Args:
        weights_path: the file `yunet_final.pth` from github.com/kornia/data.
    """

    name = "yunet"
    second_look = True
    doubtful_up_to = 0.15  # see `search`: its points are less steady than those of MTCNN

    def __init__(self, weights_path: str | os.PathLike[str]) -> None:
        with explained(  # a broken package raises anything
            lambda error: f"This kornia has no YuNet ({type(error).__name__}: {error}). Install kornia 0.7.3 or newer."
        ):
            from kornia.contrib.face_detection import YuNet
        with torch.device("meta"):
            self.network = YuNet("test", pretrained=False)
        with torch.inference_mode(False):  # tensors of that mode could not become weights
            state = load_pickle(weights_path)
        if not isinstance(state, dict):
            raise PIDiffError(f"{weights_path} is not a YuNet weights file: it holds a {type(state).__name__}.")
        with torch.inference_mode(False):
            load_strict(self.network, state, name="the YuNet detector", dtype=torch.float32)
            self.network.eval().requires_grad_(False)

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """One picture (1, 3, H, W) in [-1, 1] -> its faces."""
        faces = self._detect(image_bchw, _MIN_SCORE)
        largest = max((face.size_px for face in faces), default=0.0)
        if largest <= _MIN_BOXES_PX[-1][-1]:
            return faces
        # Beyond the largest box that the network knows, its points are off by up to a sixth of the face: look again.
        height, width = image_bchw.shape[-2:]
        factor = _GOOD_FACE_PX / largest
        reduced = resize_bchw(image_bchw, (max(1, round(height * factor)), max(1, round(width * factor))))
        small = [face for face in faces if face.size_px <= _MIN_BOXES_PX[-1][-1]]
        to_picture = pixel_scaling(width / reduced.shape[3], height / reduced.shape[2])
        large = [face.moved(to_picture) for face in self._detect(reduced, _MIN_SCORE_AGAIN)]
        return small + [face for face in large if face.size_px > _MIN_BOXES_PX[-1][-1]] or faces

    def _detect(self, image_bchw: Tensor, min_score: float) -> list[FaceDetection]:
        sizes = check_image_bchw(image_bchw)
        if min(sizes["H"], sizes["W"]) < _STEPS_PX[-1]:
            return []  # the coarsest map would be empty
        bgr = (image_bchw.float().cpu().flip(1) + 1.0) * 127.5
        with torch.no_grad():
            out = self.network(bgr)
        boxes, points = _decode(out["loc"][0], _priors(sizes["H"], sizes["W"]))
        scores = (out["conf"][0, :, 1] * out["iou"][0, :, 0].clamp(0.0, 1.0)).sqrt()
        likely = scores >= min_score
        boxes, points, scores = boxes[likely], points[likely], scores[likely]
        return [FaceDetection(boxes[i], points[i], float(scores[i])) for i in _best(boxes, scores)]


def _priors(height: int, width: int) -> Tensor:
    """(N, 3): centre x, centre y and size in px of every box that the network's output refers to, in its order."""
    rows, columns = (height + 1) // 2 // 2, (width + 1) // 2 // 2
    priors = []
    for sizes, step in zip(_MIN_BOXES_PX, _STEPS_PX):
        rows, columns = rows // 2, columns // 2
        y, x, size = torch.meshgrid(
            (torch.arange(rows) + 0.5) * step,
            (torch.arange(columns) + 0.5) * step,
            torch.tensor(sizes, dtype=torch.float32),
            indexing="ij",
        )
        priors.append(torch.stack([x, y, size], dim=-1).reshape(-1, 3))
    return torch.cat(priors)


def _decode(offsets: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Network output (N, 14) -> boxes (N, 4) and points (N, 5, 2) in px, whole numbers being pixel centres."""
    if len(offsets) != len(priors):
        raise PIDiffError(
            f"YuNet returned {len(offsets)} boxes where {len(priors)} were expected: another kornia is needed."
        )
    centres, sizes = priors[:, :2], priors[:, 2:]
    middle = centres + offsets[:, :2] * _CENTRE_VARIANCE * sizes
    half = sizes * torch.exp(offsets[:, 2:4] * _SIZE_VARIANCE) / 2
    points = centres[:, None] + offsets[:, 4:].reshape(-1, 5, 2) * _CENTRE_VARIANCE * sizes[:, None]
    return torch.cat([middle - half, middle + half], dim=1), points


def _best(boxes: Tensor, scores: Tensor) -> list[int]:
    """Indices of the boxes that stay when each suppresses the worse ones that it overlaps."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0.0).prod(dim=1)
    order, kept = scores.argsort(descending=True), []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[order, :2])
        opposite = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (opposite - corner).clamp_min(0.0).prod(dim=1)
        order = order[common / (area[best] + area[order] - common).clamp_min(1e-6) <= _MAX_OVERLAP]
    return kept
