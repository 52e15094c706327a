"""A face finder for the drawn world: detectors of photographed faces do not see drawn ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..face.search import FaceDetection

_INPUT_PX = 64
_MAP = 8  # cells a side in which a head's centre may lie
_LEAST_SCORE = 0.5


def _step(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.SiLU(),
    )


class DrawnFaceDetector(nn.Module):
    """One head in a square picture: is there one, and where are its five points.

    forward: (B, 3, 64, 64) in [-1, 1] -> presence logits (B,), points (B, 5, 2) in parts of the side (0 left or top
    edge, 1 right or bottom edge).
    """

    name = "drawn"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _step(3, 24, stride=2),
            _step(24, 48, stride=2),
            _step(48, 64, stride=1),
            _step(64, 64, stride=2),
            _step(64, 64, stride=1),
        )
        self.heat = nn.Conv2d(64, 5, 1)
        self.offset = nn.Conv2d(64, 10, 1)
        self.presence = nn.Linear(64, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        weights = self.heat(features).flatten(2).float().softmax(dim=-1)  # (B, 5, cells)
        offsets = rearrange(self.offset(features).float(), "b (p xy) h w -> b p (h w) xy", xy=2)
        centres = (torch.arange(_MAP, device=images.device) + 0.5) / _MAP
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        cells = torch.stack([x, y], dim=-1).reshape(-1, 2)
        points = (weights[..., None] * (cells + offsets / _MAP)).sum(dim=2)
        return self.presence(features.mean(dim=(2, 3))).squeeze(1).float(), points

    @torch.no_grad()
    def detect(self, image_bchw: Tensor) -> list[FaceDetection]:
        """At most one face in one picture (1, 3, H, W) in [-1, 1]; see `FaceDetector`."""
        height, width = image_bchw.shape[-2:]
        side = max(height, width)
        right, bottom = side - width, side - height
        square = F.pad(image_bchw.float(), (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        small = F.interpolate(square, (_INPUT_PX, _INPUT_PX), mode="bilinear", antialias=True, align_corners=False)
        logit, points = self(small.to(self.heat.weight))
        score = float(logit.sigmoid())
        if score < _LEAST_SCORE:
            return []
        landmarks = points[0].cpu() * side - 0.5 - torch.tensor([right // 2, bottom // 2])
        middle, reach = landmarks.mean(dim=0), 1.6 * (landmarks[1] - landmarks[0]).norm()
        return [FaceDetection(torch.cat([middle - reach, middle + reach]), landmarks, score)]


def detection_loss(detector: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """images (B, 3, 64, 64); points (B, 5, 2) in parts of the side; present (B,) 0 or 1."""
    logits, points = detector(batch["images"])
    present = batch["present"]
    distance = (points - batch["points"]).abs().sum(dim=-1).mean(dim=-1)
    located = (distance * present).sum() / present.sum().clamp_min(1)
    presence = F.binary_cross_entropy_with_logits(logits, present)
    return {"loss": 10 * located + 0.3 * presence, "distance": located, "presence": presence}
