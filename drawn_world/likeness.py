"""Measuring likeness in the drawn world: does the judge recognise the person in a generated picture?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pidiff_core.face.landmark_input import landmarks_in_crop
from pidiff_core.mini.detector import DrawnFaceDetector

from .judge import Judge, colour_similarity, colour_vectors, judged_crops, similarity

_HEAD_REACH = 2.4  # distances of the eyes from the middle of the five points


@dataclass(frozen=True, eq=False)
class Gallery:
    """The judges' description of each of n people: means over fresh renders."""

    vectors: Tensor  # (n, 64)
    colours: Tensor  # (n, 9)
    renders: Tensor  # (n, k, 64): every render's own vector


class Jury:
    """The judge, the colour-only judge, and the finder that aligns faces for both."""

    def __init__(self, judge: Judge, detector: DrawnFaceDetector) -> None:
        self.judge, self.detector = judge, detector

    @torch.no_grad()
    def find(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, H) in [-1, 1] -> the five points of each one's face (B, 5, 2) in pixels."""
        small = F.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        _, points = self.detector(small)
        side = images.shape[-1]
        points = points * side - 0.5
        # Noise has no face: points that collapse are replaced by those of a portrait that fills the picture.
        collapsed = (points[:, 1] - points[:, 0]).norm(dim=-1) < 0.05 * side
        return torch.where(collapsed[:, None, None], landmarks_in_crop(side), points)

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, H) in [-1, 1] -> the judge's vectors (B, 64) and mean colours (B, 9)."""
        crops = judged_crops(images, self.find(images))
        return self.judge(crops), colour_vectors(crops)

    def gallery(self, renders: Tensor) -> Gallery:
        """Fresh renders (n, k, 3, H, H) of n people."""
        people, each = renders.shape[:2]
        vectors, colours = self.look(renders.flatten(0, 1))
        vectors, colours = vectors.unflatten(0, (people, each)), colours.unflatten(0, (people, each))
        return Gallery(F.normalize(vectors.mean(dim=1), dim=-1), colours.mean(dim=1), vectors)

    def recognised(self, images: Tensor, gallery: Gallery) -> tuple[Tensor, Tensor]:
        """Whether picture i is recognised as person i of the gallery: booleans (n,), judge and colour-only judge."""
        vectors, colours = self.look(images)
        own = torch.arange(len(images))
        by_judge = similarity(vectors, gallery.vectors).argmax(dim=1) == own
        by_colour = colour_similarity(colours, gallery.colours).argmax(dim=1) == own
        return by_judge, by_colour

    def likeness(self, images: Tensor, gallery: Gallery) -> Tensor:
        """(n,): mean cosine of picture i to each render of person i."""
        vectors, _ = self.look(images)
        return torch.einsum("nv,nkv->nk", vectors, gallery.renders).mean(dim=1)

    def background_change(self, images: Tensor, others: Tensor) -> Tensor:
        """(B,): mean absolute difference in [0, 1] of two pictures (B, 3, H, H), outside the heads of both."""
        outside = ~(head_discs(self.find(images), images.shape[-1]) | head_discs(self.find(others), images.shape[-1]))
        difference = (images - others).abs().mean(dim=1) / 2 * outside
        return difference.sum(dim=(1, 2)) / outside.sum(dim=(1, 2)).clamp_min(1)


def head_discs(points: Tensor, side_px: int) -> Tensor:
    """Five points (B, 5, 2) in pixels -> booleans (B, H, H): a disc that holds the head, its hair and its beard."""
    middle, reach = points.mean(dim=1), _HEAD_REACH * (points[:, 1] - points[:, 0]).norm(dim=-1)
    y, x = torch.meshgrid(torch.arange(side_px), torch.arange(side_px), indexing="ij")
    distance = (torch.stack([x, y], dim=-1)[None] - middle[:, None, None]).norm(dim=-1)
    return distance <= reach[:, None, None]


def ceiling(gallery: Gallery) -> float:
    """Mean cosine of two different fresh renders of one person."""
    cosines = torch.einsum("nav,nbv->nab", gallery.renders, gallery.renders)
    each = cosines.shape[1]
    others = ~torch.eye(each, dtype=torch.bool)
    return float(cosines[:, others].mean())
