"""The whole way from a picture to the crop that the encoder reads, with every choice that the user may make on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..images import bchw_to_bhwc, check_image_bchw, resize_bchw
from ..shapes import check_shape
from .align import AlignedFace, align_face, crop_mask, paste_mask, whole_picture
from .background import head_mask, remove_background, soften
from .detection import FaceDetection, FaceDetector, find_faces, names_of, select_face
from .landmarks import five_points

VIEW_SIZE_PX = 512  # the crops that users look at, and W+ Adapter's own size before the encoder's 256
OnNoFace = Literal["error", "whole image"]
_LEAST_MASK = 0.005  # a smaller share of the crop is no face


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """What was read from one picture."""

    image: Tensor  # (1, 3, size, size) in [-1, 1]: aligned, background removed; what the encoder sees
    mask: Tensor  # (1, 1, size, size): what was kept of the crop
    picture_mask: Tensor  # (1, 1, H, W): the same in the frame of the picture
    aligned: AlignedFace  # the crop with its background, and the way back to the picture
    found_by: str  # "mtcnn", "landmarks", "whole image" ...
    origin: dict[str, Any]  # JSON-able record: the picture's hash and size, the crop, the landmarks


def crop_face(
    image_bchw: Tensor,
    *,
    detectors: Sequence[FaceDetector] = (),
    points: Tensor | None = None,
    mask_b1hw: Tensor | None = None,
    face_index: int = 0,
    on_no_face: OnNoFace = "error",
    background: str = "white",
    size: int = VIEW_SIZE_PX,
) -> FaceCrop:
    """Find, align and cut out one face of one picture.

    Args:
        image_bchw: (1, 3, H, W) in [-1, 1].
        detectors: asked in this order; none at all takes the picture as a portrait that is aligned already.
        points: the user's own 5 or 68 landmarks, or 2 corners of a box, (N, 2) in px. Landmarks need no detector; a box
            chooses among the faces found, and stands in for one where none lies in it.
        mask_b1hw: the user's own mask (1, 1, h, w) of the person, 1 = keep; a geometric one where there is none.
        face_index: 0 is the largest face.
        on_no_face: raise an error, or take the whole picture as a portrait.
        background: white, grey, black, or keep.
        size: the crop's side in px.

    Raises:
        PIDiffError: no face, no such face, a mask that leaves nothing, or anything wrong with the input.
    """
    sizes = check_image_bchw(image_bchw)
    aligned, found_by = _align(
        image_bchw, detectors=detectors, points=points, face_index=face_index, on_no_face=on_no_face, size=size
    )
    if mask_b1hw is None:
        mask = head_mask(aligned.landmarks, size=(size, size))
    else:
        mask = soften(crop_mask(_as_picture_mask(mask_b1hw, sizes["H"], sizes["W"]), aligned))
        if float(mask.mean()) < _LEAST_MASK:
            raise PIDiffError(
                f"The mask leaves nothing of the face (found by {found_by}). It should be 1 on the person, else 0. "
                "Invert it, paint it, or disconnect it to use the built-in one."
            )
    image = aligned.image if background == "keep" else remove_background(aligned.image, mask, colour=background)
    origin = {
        "picture_sha256": picture_hash(image_bchw),
        "picture_size": [sizes["W"], sizes["H"]],
        "found_by": found_by,
        "crop_to_picture": [[round(value, 4) for value in row] for row in aligned.inverse.tolist()],
        "crop_size": size,
        "background": background,
    }
    picture_mask = paste_mask(mask, aligned, size=(sizes["H"], sizes["W"]))
    return FaceCrop(image, mask, picture_mask, aligned, found_by, origin)


def picture_hash(image_bchw: Tensor) -> str:
    """SHA-256 of the picture's 8-bit RGB pixels: the same for the same picture, whatever file it came in."""
    pixels = (bchw_to_bhwc(image_bchw) * 255.0).round().to(torch.uint8).cpu()
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


def _align(
    image: Tensor,
    *,
    detectors: Sequence[FaceDetector],
    points: Tensor | None,
    face_index: int,
    on_no_face: OnNoFace,
    size: int,
) -> tuple[AlignedFace, str]:
    box = points.flatten() if points is not None and len(points) == 2 else None
    if points is not None and box is None:
        return align_face(image, five_points(points), size=size), "landmarks"
    if not detectors and box is None:
        return whole_picture(image, size=size), "whole image"
    faces = find_faces(image, detectors)
    if box is not None:
        inside = [face for face in faces if _in_box(face, box)]
        landmarks = inside[0].landmarks if inside else five_points(box.reshape(2, 2))
        return align_face(image, landmarks, size=size), f"box, {names_of(detectors)}" if inside else "box"
    if faces:
        return align_face(image, select_face(faces, face_index).landmarks, size=size), names_of(detectors)
    if on_no_face == "whole image":
        return whole_picture(image, size=size), "whole image"
    height, width = image.shape[-2:]
    raise PIDiffError(
        f"No face was found in the picture of {width}x{height} pixels (detector: {names_of(detectors)}; also tried "
        "enlarged, bordered and turned). Use a picture with a larger, clearer face, choose another detector, give "
        "the face's landmarks or box, or set on_no_face to 'whole image' for a portrait that is cropped already."
    )


def _in_box(face: FaceDetection, box: Tensor) -> bool:
    x, y = face.landmarks.mean(dim=0).tolist()
    left, top, right, bottom = box.tolist()
    return left <= x <= right and top <= y <= bottom


def _as_picture_mask(mask: Tensor, height: int, width: int) -> Tensor:
    check_shape(mask, "1 1 H W", name="the mask of the person")
    if not torch.isfinite(mask).all():
        raise PIDiffError("The mask of the person holds values that are not finite.")
    return resize_bchw(mask.float().clamp(0.0, 1.0), (height, width))
