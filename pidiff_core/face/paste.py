"""An edited portrait back into the photo that its face was cut out of.

Two portraits of the generator show what an edit does: of the codes before it and after it. *Keep details* adds their
difference to the photo, so that pores, hair and background stay the photo's own; where the edit draws something new
(teeth, glasses), the portrait itself replaces the photo. *Whole head* replaces everything by the edited portrait, for
edits that turn or move the head.

The encoder reads crops with a plain background, and portraits have it too. It is keyed out, so that a new outline of
the head has the photo behind it; what the old head covered and the new one does not is filled from its surroundings.

The portraits are resampled into the photo, never the photo itself: a pixel outside of the mask keeps its bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import PIDiffError, check_interrupted
from ..images import check_photo, resize_bchw, transform_points
from ..shapes import check_number
from .crop import COLOURS, blurred, crop_mask, cut_square, head_mask, is_over_photo, soften, strips_in_photo
from .landmark_input import check_landmarks, landmarks_in_crop
from .parsers.face_parser import FaceParser

PasteMode = Literal["keep details", "whole head"]
PASTE_MODES: tuple[PasteMode, ...] = get_args(PasteMode)
PasteArea = Literal["head", "whole crop"]
PASTE_AREAS: tuple[PasteArea, ...] = get_args(PasteArea)
MOST_FEATHER = 0.5

# Differences of two portraits in [-1, 1] below the first are added to the photo; above the second, the portrait
# replaces it, because adding would leave the photo's mouth visible through the new one.
_ADDED, _REPLACED = 0.2, 0.6
_SPREAD = 1 / 40  # of the crop's side: how far a replacement reaches around a large difference
_GAINS = (0.5, 2.0)  # of contrast, when colours are matched
_KEY = (0.2, 0.6)  # differences to the background's colour, in [-1, 1]: below the first is background, above head
_FLOOD_PX = 64  # side at which the background is followed from the border inwards
_PLAIN = 0.3  # the same for the median of a portrait's upper corners: above, the background is not plain
_SEAM = 0.06  # of the crop's side: how far the photo's colours at the mask's edge reach into a replaced head


@dataclass(frozen=True)
class PasteOptions:
    """How a portrait goes back into its photo.

    Args:
        mode: "keep details" changes what the edit changed; "whole head" takes the portrait.
        area: what may change: an oval around the head, or the whole crop. The user's own mask replaces the oval.
        feather: width of the soft edge, in sides of the crop.
        match_colour: shift the portrait's colours and contrast to those of the photo.

    Raises:
        PIDiffError: a choice that does not exist, or a feather outside of its range.
    """

    mode: PasteMode = "keep details"
    area: PasteArea = "head"
    feather: float = 0.08
    match_colour: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, PASTE_MODES), ("area", self.area, PASTE_AREAS)):
            if value not in known:
                raise PIDiffError(f"{name} should be one of {', '.join(known)}, but it is {value!r:.40}.")
        check_number(self.feather, 0.0, MOST_FEATHER, name="feather")


@dataclass(frozen=True, eq=False)
class FacePlace:
    """Where in which photo a crop was taken.

    Args:
        photo_sha256: see `crop.photo_hash`.
        matrix: (3, 3), photo px -> crop px.
        size_px: the crop's side.
        landmarks: (5, 2) in the crop's px.
        background: the colour in [-1, 1] that replaced the crop's background before it was encoded; None: it was kept.
    """

    photo_sha256: str
    matrix: Tensor
    size_px: int
    landmarks: Tensor
    background: float | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FacePlace:
        """Read an entry of `WPlus.photos`, which `pipeline.crop_faces` wrote; files may hold anything.

        Raises:
            PIDiffError: the entry is incomplete, or its numbers are not a crop.
        """
        try:
            to_photo = torch.tensor(record["crop_to_picture"], dtype=torch.float64)
            size_px = int(record["crop_size"])
            # Version 0.1 did not record the landmarks.
            points = torch.tensor(record["landmarks"]) if "landmarks" in record else landmarks_in_crop(max(1, size_px))
            landmarks = check_landmarks(points)
            usable = to_photo.shape == (3, 3) and bool(to_photo.isfinite().all()) and 16 <= size_px <= 1 << 14
            if not usable or abs(float(to_photo[:2, :2].det())) < 1e-8:
                raise ValueError("its numbers are not a crop")
            return cls(
                str(record["picture_sha256"]),
                torch.linalg.inv(to_photo).float(),
                size_px,
                landmarks,
                COLOURS.get(str(record.get("background"))),
            )
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, PIDiffError) as error:
            raise PIDiffError(
                f"The codes' record of their crop cannot be used ({error}). Encode the photo again with PIDiff Encode "
                "Face."
            ) from error


def paste_face(
    photo_bhwc: Tensor,
    place: FacePlace,
    *,
    before_bchw: Tensor,
    after_bchw: Tensor,
    options: PasteOptions,
    mask_b1hw: Tensor | None = None,
    parser: FaceParser | None = None,
) -> tuple[Tensor, Tensor]:
    """One face of one photo, changed as the two portraits differ.

    Args:
        photo_bhwc: (1, H, W, 3) in [0, 1].
        place: where the face is.
        before_bchw, after_bchw: the generator's portraits (1, 3, h, h) in [-1, 1] of the codes as they were read, and
            as they were edited.
        options: how.
        mask_b1hw: the user's own mask (1, 1, h, w) of what may change, in the photo's frame; in place of the oval.
        parser: separates the heads in the portraits from their background, instead of the background's colour.

    Returns:
        The photo (1, H, W, 3), a copy; and what may have changed in it (1, H, W): 0 where every bit is the photo's.

    Raises:
        PIDiffError: a place outside of the photo.
    """
    sizes = check_photo(photo_bhwc)
    frame = (sizes["H"], sizes["W"])
    edge = place.size_px - 0.5
    to_photo = torch.linalg.inv(place.matrix.double()).float()
    corners = torch.tensor([[-0.5, -0.5], [-0.5, edge], [edge, edge], [edge, -0.5]])
    if not is_over_photo(transform_points(to_photo, corners), frame):
        raise PIDiffError(
            f"The codes were read from a crop outside of this photo of {sizes['W']}x{sizes['H']} px. Connect the photo "
            "that was connected to PIDiff Encode Face."
        )
    check_interrupted()
    side = max(place.size_px, after_bchw.shape[-1])
    crop = resize_bchw(cut_square(photo_bhwc, place.matrix, size=place.size_px), side)
    before, after = _enlarged(before_bchw.float(), side), _enlarged(after_bchw.float(), side)
    mask = _area(place, options, mask_b1hw, frame=frame, side=side)
    check_interrupted()
    was, now = (_head(portrait, place, parser) for portrait in (before, after))
    check_interrupted()
    gain, offset = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    if options.match_colour:
        gain, offset = _colours(crop, before, was, place)
    # At the outline a portrait's colours are mixed with its background's: those of the head are continued outwards.
    colours = torch.lerp(_filled(after, now), after, _without_edge(now)) if float(now.min()) < 1.0 else after
    target, difference = colours * gain + offset, after - before
    either = now + (1.0 - now) * was  # a head, before or after
    check_interrupted()
    if options.mode == "whole head":
        replaced = either
        if options.match_colour:
            target = target + _seam(crop - target, mask, within=was * now, sigma_px=_SEAM * side)
    else:
        replaced = _replaced(difference) * either
    if float((was - now).max()) > 0.0:
        behind = _filled(crop, 1.0 - was)
        target = (now * target + (1.0 - now) * was * behind) / either.clamp_min(1e-3)
    stack = torch.cat([difference * gain * was * now / 2.0, target / 2.0 + 0.5, replaced, mask], dim=1)
    pasted, changed = photo_bhwc.clone(), torch.zeros(1, *frame)
    for rows, columns, strip in strips_in_photo(stack, place.matrix, crop_size=place.size_px, size=frame):
        check_interrupted()
        add, take, share, cover = (rearrange(part, "1 c h w -> 1 h w c") for part in strip.split([3, 3, 1, 1], dim=1))
        old = photo_bhwc[:, rows, columns]
        cover = cover.clamp(0.0, 1.0)
        new = (old + cover * ((1.0 - share) * add + share * (take - old))).clamp(0.0, 1.0)
        pasted[:, rows, columns] = torch.where(cover > 0.0, new, old)
        changed[:, rows, columns] = cover[..., 0]
    return pasted, changed


def _enlarged(image_bchw: Tensor, side: int) -> Tensor:
    """A portrait at the crop's size; bicubic, because bilinear enlargement shows its grid."""
    if image_bchw.shape[-1] >= side:
        return resize_bchw(image_bchw, side)
    return F.interpolate(image_bchw, size=(side, side), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)


def _area(
    place: FacePlace, options: PasteOptions, mask_b1hw: Tensor | None, *, frame: tuple[int, int], side: int
) -> Tensor:
    """(1, 1, side, side): 1 where the portrait counts in full, 0 at the crop's border."""
    steps = (torch.arange(side) + 0.5) / side
    to_border = torch.minimum(steps, 1.0 - steps)
    inside = torch.minimum(to_border[:, None], to_border[None, :])[None, None]
    width = max(options.feather, 2.0 / side)
    border = _smooth(inside / width - 0.5 / side)
    if mask_b1hw is not None:
        own = resize_bchw(soften(crop_mask(mask_b1hw, place.matrix, crop_size=place.size_px, size=frame)), side)
        if options.feather > 0.0:  # inwards alone: what the mask leaves out stays out
            own = (2.0 * blurred(own, options.feather / 3.0 * side) - 1.0).clamp(0.0, 1.0) * (own > 0.0)
        return own * border
    if options.area == "whole crop":
        return border
    points = (place.landmarks + 0.5) * (side / place.size_px) - 0.5
    unit_px = max(float((points[1] - points[0]).norm()), 0.9 * float((points[3:].mean(0) - points[:2].mean(0)).norm()))
    return head_mask(points, size=(side, side), feather=width * side / unit_px) * border


def _colours(crop: Tensor, before: Tensor, head: Tensor, place: FacePlace) -> tuple[Tensor, Tensor]:
    """Gain and offset (1, 3, 1, 1) that give the portrait the photo's mean and contrast on the head."""
    side = crop.shape[-1]
    points = (place.landmarks + 0.5) * (side / place.size_px) - 0.5
    weight = head_mask(points, size=(side, side)) * head
    weight = weight / weight.sum().clamp_min(1e-6)

    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        mean = (image * weight).sum(dim=(2, 3), keepdim=True)
        return mean, ((image - mean).square() * weight).sum(dim=(2, 3), keepdim=True).sqrt()

    (mean, spread), (own_mean, own_spread) = moments(crop), moments(before)
    gain = (spread / own_spread.clamp_min(1e-3)).clamp(*_GAINS)
    return gain, mean - own_mean * gain


def _head(portrait: Tensor, place: FacePlace, parser: FaceParser | None) -> Tensor:
    """(1, 1, h, h) in [0, 1]: the head in a portrait (1, 3, h, h); 1 everywhere if its background is not plain."""
    side = portrait.shape[-1]
    if parser is not None:
        return soften(resize_bchw(parser.person_mask(portrait), side))
    whole = torch.ones(1, 1, side, side)
    if place.background is None:
        return whole
    distance = (portrait - place.background).abs().amax(dim=1, keepdim=True)
    corner = max(1, side // 16)
    corners = torch.cat([distance[..., :corner, :corner].flatten(), distance[..., :corner, -corner:].flatten()])
    if float(corners.median()) > _PLAIN:
        return whole
    head = _smooth((distance - _KEY[0]) / (_KEY[1] - _KEY[0]))
    inside = head_mask(landmarks_in_crop(side), size=(side, side), shrunk=0.6)  # teeth and eyes may have the colour
    return torch.maximum(torch.maximum(head, 1.0 - _reached_from_border(1.0 - head)), inside)


def _reached_from_border(background: Tensor) -> Tensor:
    """(1, 1, h, h) in [0, 1]: what of the background is not enclosed by the head, as highlights on hair are."""
    side = background.shape[-1]
    small = (resize_bchw(background, _FLOOD_PX) > 0.5).float()
    reached = F.pad(torch.zeros_like(small)[..., 1:-1, 1:-1], (1, 1, 1, 1), value=1.0) * small
    for _ in range(2 * _FLOOD_PX):
        further = _widened(reached, 1) * small
        if torch.equal(further, reached):
            break
        reached = further
    return resize_bchw(_widened(reached, 1), side)


def _filled(crop: Tensor, known: Tensor) -> Tensor:
    """The crop (1, 3, h, h), smoothly continued to where `known` (1, 1, h, h) is 0."""
    side = crop.shape[-1]
    known = _without_edge(known)
    filled = (crop * known).mean(dim=(2, 3), keepdim=True) / known.mean().clamp_min(1e-4)
    for part in (0.2, 0.1, 0.05, 0.025, 0.0125):
        near = blurred(known, part * side)
        filled = torch.lerp(
            filled.expand_as(crop), blurred(crop * known, part * side) / near.clamp_min(1e-4), (near / 0.3).clamp(0, 1)
        )
    return filled.clamp(-1.0, 1.0)


def _replaced(difference: Tensor) -> Tensor:
    """(1, 1, h, h) in [0, 1]: where the portraits (1, 3, h, h) differ so much that adding the difference is not enough.

    Exactly 0 where they are equal.
    """
    side = difference.shape[-1]
    amount = difference.abs().amax(dim=1, keepdim=True)
    reach = max(1, round(_SPREAD * side))
    return _smooth((blurred(_widened(amount, reach), reach / 2.0) - _ADDED) / (_REPLACED - _ADDED))


def _seam(difference: Tensor, mask: Tensor, *, within: Tensor, sigma_px: float) -> Tensor:
    """What to add to a portrait, so that it meets the photo at the mask's edge: the edge's difference, faded inwards.

    within: (1, 1, h, h), the edges that count: those on skin and hair, not those to the background.
    """
    ring = 4.0 * mask * (1.0 - mask) * within
    near = blurred(ring, sigma_px)
    return blurred(difference * ring, sigma_px) / near.clamp_min(1e-4) * (2.0 * near).clamp(0.0, 1.0)


def _without_edge(mask: Tensor) -> Tensor:
    """A mask (1, 1, h, h) less the pixels in which the colours of both sides are mixed."""
    return 1.0 - _widened(1.0 - mask, mask.shape[-1] // 64)


def _widened(mask: Tensor, reach_px: int) -> Tensor:
    """The largest value within `reach_px` along both axes."""
    if reach_px < 1:
        return mask
    rows = F.max_pool2d(mask, (2 * reach_px + 1, 1), stride=1, padding=(reach_px, 0))
    return F.max_pool2d(rows, (1, 2 * reach_px + 1), stride=1, padding=(0, reach_px))


def _smooth(steps: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    steps = steps.clamp(0.0, 1.0)
    return steps * steps * (3.0 - 2.0 * steps)
