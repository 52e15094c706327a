"""Photos in, W+ codes out: the whole of what the node EncodeIdentityW+ does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .errors import PIDiffError
from .face.crop import VIEW_SIZE_PX, FaceCrop, OnNoFace, crop_faces
from .face.detection import FaceDetector
from .face.given import Given
from .face.parsing import FaceParser
from .images import bchw_to_bhwc, bhwc_to_bchw
from .model import PIDiffModel, encode
from .shapes import check_shape
from .wplus import WPlus


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from a batch of photos, and what it was read from: N faces, in the order of the photos."""

    wplus: WPlus  # (N, S, D)
    crops_bhwc: Tensor  # (N, size, size, 3) in [0, 1]: aligned, background removed
    aligned_bhwc: Tensor  # the same with their background
    masks_bhw: Tensor  # (N, H, W): each face in the frame of its photo


def read_identity(
    model: PIDiffModel,
    image_bhwc: Tensor,
    *,
    detectors: Sequence[FaceDetector],
    given: Sequence[Given | None] | None = None,
    mask_bhw: Tensor | None = None,
    parser: FaceParser | None = None,
    choose: str = "largest first",
    face_index: int = 0,
    on_no_face: OnNoFace = "error",
    background: str = "white",
    before_each: Callable[[int], None] | None = None,
) -> Reading:
    """Find one face in each photo (or all of them), align it, remove its background and encode it.

    A photo without a face that is passed through gives the average person's code, and the codes' `present` says that
    nobody is there.

    Args:
        model: with an encoder.
        image_bhwc: photos (B, H, W, C) in [0, 1], on any device; what is read from them is on the CPU.
        detectors: asked in this order; none takes each photo as an aligned portrait.
        given: what is known of the faces of each photo, as `face.given.read_given` reads it; None is nothing.
        mask_bhw: the user's own masks of the person, (H, W) or (B or 1, H, W), 1 = keep.
        parser, choose, face_index, on_no_face, background: see `face.crop.crop_faces`.
        before_each: called with the photo's index before each one (to report progress, or to stop by an exception).

    Raises:
        PIDiffError: whatever is wrong, with the photo's index where there are several.
    """
    model.require("encoder", purpose="to read codes from a photo")  # before any work is done
    photos = bhwc_to_bchw(image_bhwc, name="the photo").cpu()  # as are the grids that photos and masks meet
    count = len(photos)
    masks = _masks_of_each(mask_bhw, count)
    crops: list[FaceCrop] = []
    for index in range(count):
        if before_each is not None:
            before_each(index)
        try:
            crops += crop_faces(
                photos[index : index + 1].float(),
                detectors=detectors,
                given=None if given is None else given[index],
                mask_b1hw=masks[index],
                parser=parser,
                choose=choose,
                face_index=face_index,
                on_no_face=on_no_face,
                background=background,
                size=max(VIEW_SIZE_PX, model.crop_size),
            )
        except PIDiffError as error:
            if count == 1:
                raise
            raise PIDiffError(f"Photo {index} of {count}: {error}") from error
    return Reading(
        wplus=_encode(model, crops, photos=count),
        crops_bhwc=bchw_to_bhwc(torch.cat([crop.image for crop in crops])),
        aligned_bhwc=bchw_to_bhwc(torch.cat([crop.aligned.image for crop in crops])),
        masks_bhw=rearrange(torch.cat([crop.picture_mask for crop in crops]), "n 1 h w -> n h w"),
    )


def _encode(model: PIDiffModel, crops: list[FaceCrop], *, photos: int) -> WPlus:
    """The crops' codes; the average where there is nobody to read."""
    found_by = ", ".join(dict.fromkeys(crop.found_by for crop in crops))
    people = f"{len(crops)} faces of " if len(crops) != photos else ""
    source = f"{people}{photos} photo{'s' if photos > 1 else ''} (face found by {found_by})"
    origin: dict[str, Any] = {"encoder": model.source, "photos": [crop.origin for crop in crops]}
    present = [crop.present for crop in crops]
    if all(present):
        return encode(model, torch.cat([crop.image for crop in crops]), source=source, origin=origin)
    offsets = torch.zeros(len(crops), model.space.num_styles, model.space.width)
    if any(present):
        seen = torch.cat([crop.image for crop in crops if crop.present])
        offsets[torch.tensor(present)] = encode(model, seen).offsets
    return WPlus.from_offsets(
        offsets,
        model.require_average().float().cpu(),
        space=model.space,
        source=source,
        origin=origin | {"present": present},
    )


def _masks_of_each(mask_bhw: Tensor | None, count: int) -> list[Tensor | None]:
    if mask_bhw is None:
        return [None] * count
    masks = (mask_bhw[None] if mask_bhw.ndim == 2 else mask_bhw).cpu()
    number = check_shape(masks, "B H W", name="the mask of the person")["B"]
    if number not in (1, count):
        raise PIDiffError(f"{number} masks were given for {count} photos: give one for all, or one each.")
    return [masks[index if number > 1 else 0][None, None] for index in range(count)]
