"""The whole way from a picture to the crop that the encoder reads, with every choice that the user may make on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..images import bchw_to_bhwc, check_image_bchw, resize_bchw
from ..shapes import check_shape
from .align import AlignedFace, align_face, crop_mask, paste_mask, whole_picture
from .background import head_mask, remove_background, soften
from .detection import FaceDetection, FaceDetector, find_faces, largest_first, names_of
from .given import Given
from .landmarks import landmarks_in_box
from .order import ALL, picking
from .parsing import FaceParser

VIEW_SIZE_PX = 512  # the crops that users look at, and W+ Adapter's own size before the encoder's 256
OnNoFace = Literal["error", "pass through", "whole image"]
ON_NO_FACE: tuple[OnNoFace, ...] = get_args(OnNoFace)
_LEAST_OF_HEAD = 0.05  # of the head: a mask that keeps less of it is meant for something else


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """What was read from one picture, about one face."""

    image: Tensor  # (1, 3, size, size) in [-1, 1]: aligned, background removed; what the encoder sees
    mask: Tensor  # (1, 1, size, size): what was kept of the crop
    picture_mask: Tensor  # (1, 1, H, W): the same in the frame of the picture
    aligned: AlignedFace  # the crop with its background, and the way back to the picture
    found_by: str  # "mtcnn", "landmarks", "whole image" ..., or "nobody"
    origin: dict[str, Any]  # JSON-able record: the picture's hash and size, the crop, the landmarks
    present: bool = True  # False where there was no face: nothing of the picture is kept


def crop_faces(
    image_bchw: Tensor,
    *,
    detectors: Sequence[FaceDetector] = (),
    given: Given | None = None,
    mask_b1hw: Tensor | None = None,
    parser: FaceParser | None = None,
    choose: str = "largest first",
    face_index: int = 0,
    on_no_face: OnNoFace = "error",
    background: str = "white",
    size: int = VIEW_SIZE_PX,
) -> list[FaceCrop]:
    """Find, align and cut out the chosen faces of one picture: one, or with `choose` "all" every one.

    Args:
        image_bchw: (1, 3, H, W) in [-1, 1].
        detectors: asked in this order; none at all takes the picture as a portrait that is aligned already.
        given: faces that are known already, which need no detector, or a box: it chooses among the faces found, and
            stands in for one where none lies in it.
        mask_b1hw: the user's own mask (1, 1, h, w) of the person, 1 = keep.
        parser: finds the person where there is no such mask; without it, or where it sees nobody, the head is an egg
            around the landmarks.
        choose, face_index: see `order.picking`. Of "all", faces of which `mask_b1hw` keeps nothing are left out.
        on_no_face: raise an error, go on with a crop of nobody, or take the whole picture as a portrait.
        background: white, grey, black, or keep.
        size: the crop's side in px.

    Raises:
        PIDiffError: no face, no such face, a mask that leaves nothing, or anything wrong with the input.
    """
    sizes = check_image_bchw(image_bchw)
    height, width = sizes["H"], sizes["W"]
    pick = picking(choose, index=face_index, size=(height, width))
    if given is not None and given.box_xyxy is not None:
        found, found_by = _in_box(image_bchw, given.box_xyxy, detectors)
    elif given is not None:
        found, found_by = pick(list(given.faces)) if given.faces else [], "landmarks"
    elif detectors:
        found = find_faces(image_bchw, detectors, pick=pick)
        found_by = found[0].found_by if found else names_of(detectors)
    else:
        found, found_by = None, ""
    background_of = _Background(mask_b1hw, parser, background)
    if found:
        aligned = [align_face(image_bchw, face.landmarks, size=size) for face in found]
        if choose == ALL:  # a mask of some of the people, if it is no mistake: then the first face says so
            aligned = [face for face in aligned if background_of.holds(image_bchw, face)] or aligned
        return [background_of.crop(image_bchw, face, found_by=found_by) for face in aligned]
    if found is None or on_no_face == "whole image":
        return [background_of.crop(image_bchw, whole_picture(image_bchw, size=size), found_by="whole image")]
    if on_no_face == "pass through":
        return [background_of.nobody(image_bchw, size=size)]
    searched = "the landmarks given" if found_by == "landmarks" else f"detector: {found_by}"
    raise PIDiffError(
        f"No face was found in the picture of {width}x{height} pixels ({searched}; detectors also try it enlarged, "
        "bordered and turned). Use a picture with a larger, clearer face, choose another detector, give the face's "
        "landmarks or box, or set on_no_face to 'pass through' to go on without this person, or to 'whole image' for "
        "a portrait that is cropped already."
    )


@dataclass(frozen=True, eq=False)
class _Background:
    """What is kept of a crop, and what takes the place of the rest."""

    mask_b1hw: Tensor | None
    parser: FaceParser | None
    colour: str

    def crop(self, image_bchw: Tensor, aligned: AlignedFace, *, found_by: str) -> FaceCrop:
        mask, mask_by = self._mask(aligned, image_bchw.shape[-2:], found_by)
        return self._finished(image_bchw, aligned, mask, found_by=found_by, mask_by=mask_by)

    def holds(self, image_bchw: Tensor, aligned: AlignedFace) -> bool:
        """Whether the user's mask, if there is one, keeps anything of this face."""
        if self.mask_b1hw is None:
            return True
        _, kept = _users_mask(self.mask_b1hw, aligned, image_bchw.shape[-2:])
        return kept >= _LEAST_OF_HEAD

    def nobody(self, image_bchw: Tensor, *, size: int) -> FaceCrop:
        """A crop of a picture without a face: its middle, none of which is kept."""
        empty = torch.zeros(1, 1, size, size)
        aligned = whole_picture(image_bchw, size=size)
        return self._finished(image_bchw, aligned, empty, found_by="nobody", mask_by="nobody", present=False)

    def _mask(self, aligned: AlignedFace, picture_size: Sequence[int], found_by: str) -> tuple[Tensor, str]:
        if self.mask_b1hw is not None:
            mask, kept = _users_mask(self.mask_b1hw, aligned, picture_size)
            if kept < _LEAST_OF_HEAD:
                raise PIDiffError(
                    f"The mask leaves nothing of the face (found by {found_by}): it keeps {kept:.0%} of the head. It "
                    "should be 1 on the person, else 0. Invert it (Load Image's mask is 1 where a picture is "
                    "transparent), paint it, or disconnect it to use the built-in one."
                )
            return mask, "user"
        head = head_mask(aligned.landmarks, size=(aligned.size_px, aligned.size_px))
        if self.parser is not None:
            mask = soften(resize_bchw(self.parser.person_mask(aligned.image), aligned.size_px))
            if _kept(mask, of=head) >= _LEAST_OF_HEAD:
                return mask, self.parser.name
        return head, "landmarks"

    def _finished(
        self,
        image_bchw: Tensor,
        aligned: AlignedFace,
        mask: Tensor,
        *,
        found_by: str,
        mask_by: str,
        present: bool = True,
    ) -> FaceCrop:
        height, width = image_bchw.shape[-2:]
        keeps = self.colour == "keep"
        image = aligned.image if keeps else remove_background(aligned.image, mask, colour=self.colour)
        origin = {
            "picture_sha256": picture_hash(image_bchw),
            "picture_size": [width, height],
            "found_by": found_by,
            "crop_to_picture": [[round(value, 4) for value in row] for row in aligned.inverse.tolist()],
            "crop_size": aligned.size_px,
            "background": self.colour,
            "mask_by": mask_by,
        }
        picture_mask = paste_mask(mask, aligned, size=(height, width))
        return FaceCrop(image, mask, picture_mask, aligned, found_by, origin, present)


def picture_hash(image_bchw: Tensor) -> str:
    """SHA-256 of the picture's 8-bit RGB pixels: the same for the same picture, whatever file it came in."""
    pixels = (bchw_to_bhwc(image_bchw) * 255.0).round().to(torch.uint8).cpu()
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


def _in_box(image: Tensor, box_xyxy: Tensor, detectors: Sequence[FaceDetector]) -> tuple[list[FaceDetection], str]:
    """The largest face whose middle lies in the box, or an average one that fills it."""
    left, top, right, bottom = box_xyxy.tolist()

    def pick(faces: list[FaceDetection]) -> list[FaceDetection]:
        inside = [
            face for face in faces if left <= float(face.middle[0]) <= right and top <= float(face.middle[1]) <= bottom
        ]
        return largest_first(inside)[:1]

    average = FaceDetection(box_xyxy, landmarks_in_box(box_xyxy), 1.0)
    if detectors and (inside := find_faces(image, detectors, pick=pick)):
        return inside, f"box, {inside[0].found_by}"
    return [average], "box"


def _users_mask(mask_b1hw: Tensor, aligned: AlignedFace, picture_size: Sequence[int]) -> tuple[Tensor, float]:
    """The user's mask in the crop's frame (1, 1, size, size), and how much of the head it keeps."""
    mask = soften(crop_mask(_as_picture_mask(mask_b1hw, *picture_size), aligned))
    return mask, _kept(mask, of=head_mask(aligned.landmarks, size=(aligned.size_px, aligned.size_px)))


def _kept(mask: Tensor, *, of: Tensor) -> float:
    return float((mask * of).sum() / of.sum().clamp_min(1e-6))


def _as_picture_mask(mask: Tensor, height: int, width: int) -> Tensor:
    check_shape(mask, "1 1 H W", name="the mask of the person")
    if not torch.isfinite(mask).all():
        raise PIDiffError("The mask of the person holds values that are not finite.")
    return resize_bchw(mask.float().clamp(0.0, 1.0), (height, width))
