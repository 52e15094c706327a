"""One photo of the listing: its face, its masks and its crops, ready for the networks of the base model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...errors import PIDiffError
from ...face.crop import remove_background
from ...face.parsers.face_parser import FaceParser
from ...face.search import FaceDetector, names_of
from ...images import bhwc_to_bchw, load_image, resize_bchw
from ...pipeline import FaceCrop, FaceOptions, crop_faces
from .buckets import CropBox, Size, closer_crop, nearest_bucket, widest_crop
from .listing import Photo

_HEAD = 0.5  # a pixel belongs to the head if the mask is above this


@dataclass(frozen=True, eq=False)
class ReadPhoto:
    """What is taken from one photo; everything on the CPU, pictures in [-1, 1], masks in [0, 1]."""

    photo_px: Size
    face_bchw: Tensor  # (1, 3, s, s): aligned, on white: what the encoder reads
    aligned_bchw: Tensor  # (1, 3, R, R): the same at the resolution of training
    aligned_mask: Tensor  # (1, 1, R, R)
    crops: list[tuple[CropBox, Tensor, Tensor]]  # where, picture (1, 3, h, w), mask of the head (1, 1, h, w)
    crop_to_photo: list[list[float]]
    aligned_px: int  # side of the aligned crop that `crop_to_photo` starts from
    found_by: str


@dataclass(frozen=True, eq=False)
class PhotoReader:
    """How photos are read: the detectors, the parser and the sizes are the same for all of them.

    Args:
        detectors: asked in this order; none takes each photo as an aligned portrait.
        parser: finds the head; None: an oval around the landmarks.
        sizes: the buckets.
        resolution: side of the aligned faces in px.
        crop_px: side of the crop that the encoder reads.
        crops, min_photo_px, min_face_px: see `PrepareOptions`.
        upright: look only for upright faces.
    """

    detectors: Sequence[FaceDetector]
    parser: FaceParser | None
    sizes: list[Size]
    resolution: int
    crop_px: int
    crops: int
    min_photo_px: int
    min_face_px: int
    upright: bool = False

    def read(self, photo: Photo) -> ReadPhoto:
        """Open a photo and take everything from it.

        Raises:
            PIDiffError: the file cannot be read, is too small, or has no face that is large enough.
        """
        image_bhwc = load_image(photo.path)
        height, width = photo_px = (image_bhwc.shape[1], image_bhwc.shape[2])
        if min(photo_px) < self.min_photo_px:
            raise PIDiffError(f"The photo has {width}x{height} px; its shorter side should have {self.min_photo_px}.")
        (face,) = crop_faces(
            image_bhwc,
            FaceOptions(detectors=self.detectors, parser=self.parser, on_no_face="pass through", upright=self.upright),
            size=max(self.resolution, 2 * self.crop_px),  # W+ Adapter's preparation: twice the encoder's size
        )
        if not face.present:
            raise PIDiffError(f"No face was found (detector: {names_of(self.detectors)}).")
        face_px = face.aligned.size_px * float(face.aligned.inverse[:2, 0].norm())
        if face_px < self.min_face_px:
            raise PIDiffError(
                f"The largest face's crop covers {face_px:.0f} px of the photo, fewer than {self.min_face_px}."
            )
        image = bhwc_to_bchw(image_bhwc)
        mask = resize_bchw(face.mask, self.resolution)
        return ReadPhoto(
            photo_px=photo_px,
            face_bchw=face.image,
            aligned_bchw=remove_background(resize_bchw(face.aligned.image, self.resolution), mask),
            aligned_mask=mask,
            crops=[(box, box.cut(image), box.cut(face.photo_mask)) for box in self._boxes(photo, photo_px, face)],
            crop_to_photo=[[round(value, 4) for value in row] for row in face.aligned.inverse.tolist()],
            aligned_px=face.aligned.size_px,
            found_by=face.found_by,
        )

    def _boxes(self, photo: Photo, photo_px: Size, face: FaceCrop) -> list[CropBox]:
        size_px = nearest_bucket(photo_px, self.sizes)
        head = _bounds(face.photo_mask) or (0.0, 0.0, float(photo_px[1]), float(photo_px[0]))
        seed = int.from_bytes(hashlib.sha256(photo.name.encode(errors="surrogateescape")).digest()[:8], "big")
        rng = np.random.default_rng(seed)
        closer = [closer_crop(photo_px, size_px, head_xyxy=head, rng=rng) for _ in range(self.crops - 1)]
        return [widest_crop(photo_px, size_px, head_xyxy=head), *closer]


def find_head(image_bhwc: Tensor, detectors: Sequence[FaceDetector]) -> Tensor | None:
    """The mask (1, H, W) in [0, 1] of the largest head in a picture (1, H, W, 3) in [0, 1]; None without a face."""
    (face,) = crop_faces(image_bhwc, FaceOptions(detectors=detectors, on_no_face="pass through"))
    return face.photo_mask[0] if face.present else None


def _bounds(mask_b1hw: Tensor) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of the head in px."""
    inside = mask_b1hw[0, 0] > _HEAD
    rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
    if len(rows) == 0:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
