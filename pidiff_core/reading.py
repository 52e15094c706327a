"""Photos in, W+ codes out: the whole of what the node EncodeIdentityW+ does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .errors import PIDiffError
from .face.crop import VIEW_SIZE_PX, FaceCrop, OnNoFace, crop_face
from .face.detection import FaceDetector
from .face.landmarks import parse_points
from .images import bchw_to_bhwc, bhwc_to_bchw
from .model import PIDiffModel, encode
from .shapes import check_shape
from .wplus import WPlus


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from a batch of photos, and what it was read from."""

    wplus: WPlus  # (B, S, D)
    crops_bhwc: Tensor  # (B, size, size, 3) in [0, 1]: aligned, background removed
    aligned_bhwc: Tensor  # the same with their background
    masks_bhw: Tensor  # (B, H, W): the faces in the frame of the photos


def read_identity(
    model: PIDiffModel,
    image_bhwc: Tensor,
    *,
    detectors: Sequence[FaceDetector],
    landmarks: str = "",
    mask_bhw: Tensor | None = None,
    face_index: int = 0,
    on_no_face: OnNoFace = "error",
    background: str = "white",
    before_each: Callable[[int], None] | None = None,
) -> Reading:
    """Find one face in each photo, align it, remove its background and encode it.

    Args:
        model: with an encoder.
        image_bhwc: photos (B, H, W, C) in [0, 1].
        detectors: asked in this order; none takes each photo as an aligned portrait.
        landmarks: the user's own, "x,y x,y ..." in px: see `face.landmarks`; one line for all photos or one for each.
        mask_bhw: the user's own masks of the person, (H, W) or (B or 1, H, W), 1 = keep.
        face_index, on_no_face, background: see `face.crop.crop_face`.
        before_each: called with the photo's index before each one (to report progress, or to stop by an exception).

    Raises:
        PIDiffError: whatever is wrong, with the photo's index where there are several.
    """
    model.require("encoder", purpose="to read codes from a photo")  # before any work is done
    photos = bhwc_to_bchw(image_bhwc, name="the photo")
    count = len(photos)
    points = _points_of_each(landmarks, count)
    masks = _masks_of_each(mask_bhw, count)
    crops: list[FaceCrop] = []
    for index in range(count):
        if before_each is not None:
            before_each(index)
        try:
            crop = crop_face(
                photos[index : index + 1].float(),
                detectors=detectors,
                points=points[index],
                mask_b1hw=masks[index],
                face_index=face_index,
                on_no_face=on_no_face,
                background=background,
                size=max(VIEW_SIZE_PX, model.crop_size),
            )
        except PIDiffError as error:
            if count == 1:
                raise
            raise PIDiffError(f"Photo {index} of {count}: {error}") from error
        crops.append(crop)
    images = torch.cat([crop.image for crop in crops])
    found_by = ", ".join(dict.fromkeys(crop.found_by for crop in crops))
    wplus = encode(
        model,
        images,
        source=f"{count} photo{'s' if count > 1 else ''} (face found by {found_by})",
        origin={"encoder": model.source, "photos": [crop.origin for crop in crops]},
    )
    return Reading(
        wplus=wplus,
        crops_bhwc=bchw_to_bhwc(images),
        aligned_bhwc=bchw_to_bhwc(torch.cat([crop.aligned.image for crop in crops])),
        masks_bhw=rearrange(torch.cat([crop.picture_mask for crop in crops]), "b 1 h w -> b h w"),
    )


def _points_of_each(landmarks: str, count: int) -> list[Tensor | None]:
    lines = [line for line in landmarks.splitlines() if line.strip()]
    if not lines:
        return [None] * count
    if len(lines) == 1 or count == 1:
        return [parse_points(" ".join(lines))] * count
    if len(lines) != count:
        raise PIDiffError(f"{len(lines)} lines of landmarks were given for {count} photos: give one, or one each.")
    return [parse_points(line) for line in lines]


def _masks_of_each(mask_bhw: Tensor | None, count: int) -> list[Tensor | None]:
    if mask_bhw is None:
        return [None] * count
    masks = mask_bhw[None] if mask_bhw.ndim == 2 else mask_bhw
    number = check_shape(masks, "B H W", name="the mask of the person")["B"]
    if number not in (1, count):
        raise PIDiffError(f"{number} masks were given for {count} photos: give one for all, or one each.")
    return [masks[index if number > 1 else 0][None, None] for index in range(count)]
