"""One face cut out of a photo: aligned as the FFHQ data set is, its background replaced.

The alignment (Karras et al., arXiv 1812.04948, appendix A) is a rotated square from five points: its axes follow the
line between the eyes and the line from the eyes to the mouth, half its side is twice the distance of the eyes or 1.8
times that from the eyes to the mouth, whichever is longer. What is outside of the photo is its mirror image, blurred
and faded to the median colour.

The background is replaced by white, as W+ Adapter's preparation does. The person is found by the user's mask, by a face
parser, or by an oval around the landmarks.

Coordinates are (x, y) in pixels; whole numbers are the centres of pixels, in the photo and in the crop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..errors import PIDiffError, check_interrupted
from ..images import (
    check_image_bchw,
    check_photo,
    cut_bchw,
    pixel_scaling,
    resize_bchw,
    shift,
    transform_points,
    warp,
)
from ..shapes import check_shape
from .landmark_input import check_landmarks, landmarks_in_crop
from .parsers.face_parser import FaceParser

_MAX_OVERSAMPLING = 4  # the crop is sampled at up to this many times its size and then reduced
_ROWS = 256  # of a photo that are worked on at once: temporary copies of all of them would be as large as the photo


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A crop, and the matrix that leads back to the photo that it was taken from."""

    image: Tensor  # (1, 3, size, size) in [-1, 1]
    landmarks: Tensor  # (5, 2) in the crop's pixels
    matrix: Tensor  # (3, 3): (x, y, 1) in the photo -> (x, y, 1) in the crop

    @property
    def inverse(self) -> Tensor:
        """(3, 3): (x, y, 1) in the crop -> (x, y, 1) in the photo."""
        return torch.linalg.inv(self.matrix.double()).float()

    @property
    def size_px(self) -> int:
        """The crop's side."""
        return self.image.shape[-1]


def ffhq_quad(landmarks: Tensor) -> Tensor:
    """Five points (5, 2) -> corners of the crop in the photo (4, 2), from the top left counter-clockwise."""
    points = check_landmarks(landmarks).double()
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    across, down = points[1] - points[0], mouth - eyes
    # Half the sum of "across" and "down turned by 90 degrees": both lines vote for the face's direction.
    x = across + torch.stack([down[1], -down[0]])
    length = x.norm()
    if length < 1e-6:
        raise PIDiffError(
            "The landmarks are upside down: the mouth is above the line between the eyes. Left and right are as seen "
            "in the photo."
        )
    x = x / length * max(2.0 * float(across.norm()), 1.8 * float(down.norm()))
    y = torch.stack([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return torch.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]).float()


def align_face(photo_bhwc: Tensor, landmarks: Tensor, *, size: int) -> AlignedFace:
    """Cut one face out of one photo.

    Args:
        photo_bhwc: (1, H, W, 3) in [0, 1].
        landmarks: (5, 2) in its pixels; they may be outside of it.
        size: the crop's side in px.

    Raises:
        PIDiffError: not one photo, points that are not a face, or a crop that has nothing of the photo in it.
    """
    sizes = check_photo(photo_bhwc)
    points = check_landmarks(landmarks)
    quad = ffhq_quad(points)
    if not is_over_photo(quad, (sizes["H"], sizes["W"])):
        raise PIDiffError(
            f"The face at {points.mean(dim=0).tolist()} is outside of the photo of {sizes['W']}x{sizes['H']} px. "
            "Give the landmarks in this photo's pixels."
        )
    matrix = _square_to_crop(quad, size)
    return AlignedFace(cut_square(photo_bhwc, matrix, size=size), transform_points(matrix, points), matrix)


def is_over_photo(quad: Tensor, size: tuple[int, int]) -> bool:
    """Whether the box around a crop's corners (4, 2) has any of a photo of this size (height, width) in it."""
    low, high = quad.amin(dim=0), quad.amax(dim=0)
    return bool((high >= 0).all() and low[0] <= size[1] - 1 and low[1] <= size[0] - 1)


def cut_square(photo_bhwc: Tensor, matrix: Tensor, *, size: int) -> Tensor:
    """A rotated square of a photo (1, H, W, 3), sampled as (1, 3, size, size) in [-1, 1].

    Args:
        photo_bhwc: in [0, 1]. What of the square is outside of it is mirrored and blurred.
        matrix: (3, 3), photo px -> px of the square, such as `AlignedFace.matrix`.
        size: the side in px that the matrix was made for.
    """
    to_photo = torch.linalg.inv(matrix.double())
    edge = size - 0.5
    corners = torch.tensor([[-0.5, -0.5], [-0.5, edge], [edge, edge], [edge, -0.5]])
    quad = transform_points(to_photo.float(), corners)
    part, to_part = _surroundings(photo_bhwc, quad, size)
    side = float((quad[3] - quad[0]).norm()) * float(to_part[0, 0])
    factor = min(max(math.ceil(side / size), 1), _MAX_OVERSAMPLING)
    fine_to_part = to_part.double() @ to_photo @ pixel_scaling(1.0 / factor).double()
    fine = warp(part, fine_to_part.float(), (size * factor, size * factor))
    return resize_bchw(fine, size)


def whole_photo(photo_bhwc: Tensor, *, size: int) -> AlignedFace:
    """A photo (1, H, W, 3) in [0, 1] that is an aligned portrait: its central square, with an average face's points."""
    sizes = check_photo(photo_bhwc)
    side = min(sizes["H"], sizes["W"])
    left, top = (sizes["W"] - side) // 2, (sizes["H"] - side) // 2
    square, _ = cut_bchw(
        photo_bhwc, left=left, top=top, right=left + side, bottom=top + side, reduction=max(side / size, 1.0)
    )
    matrix = pixel_scaling(size / side) @ shift(-left, -top)
    return AlignedFace(resize_bchw(square, size), landmarks_in_crop(size), matrix)


def crop_mask(mask_b1hw: Tensor, matrix: Tensor, *, crop_size: int, size: tuple[int, int]) -> Tensor:
    """A mask of a photo in the crop's frame.

    Args:
        mask_b1hw: (1, 1, h, w), the whole photo at any size.
        matrix: (3, 3), photo px -> px of the crop.
        crop_size: the crop's side in px.
        size: height and width of the photo.

    Returns:
        (1, 1, crop_size, crop_size), 0 outside of the photo.
    """
    to_photo = torch.linalg.inv(matrix.double()).float()
    to_mask = pixel_scaling(mask_b1hw.shape[3] / size[1], mask_b1hw.shape[2] / size[0]) @ to_photo
    reduction = max(1.0, float(to_mask[:2, 0].norm()))  # mask pixels for each crop pixel
    height, width = mask_b1hw.shape[-2:]
    smaller = resize_bchw(mask_b1hw, (max(1, round(height / reduction)), max(1, round(width / reduction))))
    to_smaller = pixel_scaling(smaller.shape[3] / width, smaller.shape[2] / height)
    return warp(smaller, to_smaller @ to_mask, (crop_size, crop_size))


def paste_mask(mask_b1hw: Tensor, aligned: AlignedFace, *, size: tuple[int, int]) -> Tensor:
    """A mask in the crop's frame (1, 1, h, h) of any size -> in the photo's frame (1, 1, H, W), 0 outside."""
    pasted = torch.zeros(1, 1, *size)
    for rows, columns, strip in strips_in_photo(mask_b1hw, aligned.matrix, crop_size=aligned.size_px, size=size):
        pasted[:, :, rows, columns] = strip
    return pasted


def strips_in_photo(
    image_bchw: Tensor, matrix: Tensor, *, crop_size: int, size: tuple[int, int]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """What is in the crop's frame, as it is in the photo's, in strips of rows: a photo may have 49 megapixels.

    Args:
        image_bchw: (1, C, h, h), the whole crop at any size.
        matrix: (3, 3), photo px -> px of the crop.
        crop_size: the crop's side in px that the matrix was made for.
        size: height and width of the photo.

    Yields:
        Rows and columns of the photo, and the strip (1, C, rows, columns), 0 outside of the crop.
    """
    side = image_bchw.shape[-1]
    scale = float(matrix[:2, 0].norm()) * side / crop_size  # px of the image for one of the photo
    if scale > 1.0:
        image_bchw = resize_bchw(image_bchw, max(1, round(side / scale)))
    to_image = pixel_scaling(image_bchw.shape[-1] / crop_size) @ matrix
    edge = crop_size - 0.5
    to_photo = torch.linalg.inv(matrix.double()).float()
    corners = transform_points(to_photo, torch.tensor([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]))
    reach = 1.0 / min(scale, 1.0) + 1.0  # bilinear sampling reaches one pixel of the image further
    low, high = (corners.amin(dim=0) - reach).floor().tolist(), (corners.amax(dim=0) + reach).ceil().tolist()
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    right, bottom = min(size[1], int(high[0]) + 1), min(size[0], int(high[1]) + 1)
    for row in range(top, bottom if right > left else top, _ROWS):
        check_interrupted()
        end = min(row + _ROWS, bottom)
        strip = warp(image_bchw, to_image @ shift(left, row), (end - row, right - left))
        yield slice(row, end), slice(left, right), strip


def photo_hash(photo_bhwc: Tensor) -> str:
    """SHA-256 of the photo's 8-bit RGB pixels: the same for the same picture, whatever file it came in."""
    digest = hashlib.sha256(str(tuple(photo_bhwc.shape)).encode())
    for rows in photo_bhwc.split(_ROWS, dim=1):
        digest.update((rows.float() * 255.0).round().to(torch.uint8).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _square_to_crop(quad: Tensor, size: int) -> Tensor:
    """(3, 3): picture px -> crop px; the quad's corners go to the outer corners of the crop's corner pixels."""
    top_left, across, down = quad[0].double(), (quad[3] - quad[0]).double(), (quad[1] - quad[0]).double()
    to_picture = torch.eye(3, dtype=torch.float64)
    to_picture[:2, 0], to_picture[:2, 1] = across / size, down / size
    to_picture[:2, 2] = top_left + (across + down) / size / 2.0
    return torch.linalg.inv(to_picture).float()


def _surroundings(photo_bhwc: Tensor, quad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The part of the photo that the crop needs, mirrored outside the photo's border.

    Returns:
        The part (1, 3, h, w) in [-1, 1], and the matrix (3, 3) photo px -> part px.
    """
    side = float((quad[3] - quad[0]).norm())
    shrink = max(math.floor(side / size / 2.0), 1)  # far larger than needed: reduced first, with antialiasing
    border = max(round(side * 0.1), 3 * shrink)
    low, high = quad.amin(dim=0).floor().int().tolist(), quad.amax(dim=0).ceil().int().tolist()
    part, to_photo = cut_bchw(
        photo_bhwc,
        left=(low[0] - border) // shrink * shrink,  # on the reduced photo's grid
        top=(low[1] - border) // shrink * shrink,
        right=high[0] + border,
        bottom=high[1] + border,
        reduction=shrink,
    )
    to_part = torch.linalg.inv(to_photo.double()).float()
    quad, side, border = transform_points(to_part, quad), side / shrink, max(border // shrink, 3)
    low, high = quad.amin(dim=0).floor().int().tolist(), quad.amax(dim=0).ceil().int().tolist()
    height, width = part.shape[-2:]
    before = [border - low[0], border - low[1]]
    after = [high[0] + border - width, high[1] + border - height]
    pads = [max(pad, 0) for pad in (*before, *after)]
    if max(pads) > border - 4:
        pads = [max(pad, round(side * 0.3)) for pad in pads]
        part = _mirror_pad(part, pads, blur_px=side * 0.02)
        to_part = shift(pads[0], pads[1]) @ to_part
    return part, to_part


def _mirror_pad(image: Tensor, pads: list[int], *, blur_px: float) -> Tensor:
    """Mirror outwards by `pads` (left, top, right, bottom), blur what is new, fade its far end to the median colour."""
    height, width = image.shape[-2:]
    rows = _mirrored(torch.arange(-pads[1], height + pads[3]), height)
    columns = _mirrored(torch.arange(-pads[0], width + pads[2]), width)
    padded = image[:, :, rows][:, :, :, columns]
    y = torch.arange(padded.shape[2], dtype=torch.float32)[:, None]
    x = torch.arange(padded.shape[3], dtype=torch.float32)[None, :]
    inside = torch.minimum(
        torch.minimum(x / pads[0], (padded.shape[3] - 1 - x) / pads[2]),
        torch.minimum(y / pads[1], (padded.shape[2] - 1 - y) / pads[3]),
    )
    outside = 1.0 - inside  # 1 at the outermost pixel, 0 at the photo's border, negative inside
    padded = padded + (blurred(padded, blur_px) - padded) * (outside * 3.0 + 1.0).clamp(0.0, 1.0).to(padded)
    median = rearrange(padded, "b c h w -> b c (h w)").median(dim=2).values[..., None, None]
    return padded + (median - padded) * outside.clamp(0.0, 1.0).to(padded)


def blurred(image: Tensor, sigma_px: float) -> Tensor:
    """A Gaussian blur of (B, C, H, W); a wide one is done on a reduced copy, which has all that it leaves."""
    from kornia.filters import gaussian_blur2d  # takes 0.2 s to import, which ComfyUI's start should not

    size = image.shape[-2], image.shape[-1]
    factor = max(1.0, sigma_px / 4.0)
    reduced = resize_bchw(image, (max(1, round(size[0] / factor)), max(1, round(size[1] / factor))))
    sigma = sigma_px / factor
    radius = min(max(1, math.ceil(sigma * 3.0)), max(1, min(reduced.shape[-2:]) - 1))
    kernel = (2 * radius + 1, 2 * radius + 1)
    return resize_bchw(gaussian_blur2d(reduced, kernel, (sigma, sigma), border_type="replicate"), size)


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Indices of any size, reflected into [0, length) without repeating the edge."""
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


# ------------------------------------------------------------------------------------------------- the background

COLOURS = {"white": 1.0, "grey": 0.0, "black": -1.0}  # in [-1, 1]

# The head as an oval in the face's own frame, in units of d = max(eye distance, 0.9 * eyes to mouth), origin between
# the eyes, y downwards: half the width, the crown, the chin and the widest line. Hair is inside, as part of a person.
_HALF_WIDTH, _CROWN, _CHIN, _WIDEST = 1.45, -1.85, 1.9, -0.1
_FEATHER = 0.18  # width of the soft edge, in d


def head_mask(landmarks: Tensor, *, size: tuple[int, int], feather: float = _FEATHER, shrunk: float = 1.0) -> Tensor:
    """A feathered mask (1, 1, H, W) of the head (face and hair), 1 inside, from five points (5, 2) in px.

    feather: width of the soft edge in distances of the eyes; half of it is inside.
    shrunk: factor of the oval's size.
    """
    points = check_landmarks(landmarks)
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    down = (mouth - eyes) / (mouth - eyes).norm()
    across = torch.stack([down[1], -down[0]])
    unit_px = max(float((points[1] - points[0]).norm()), 0.9 * float((mouth - eyes).norm()))
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = (torch.stack([x, y], dim=-1).float() - eyes) / unit_px
    u, v = offset @ across, offset @ down - _WIDEST
    half_height = torch.where(v < 0, _WIDEST - _CROWN, _CHIN - _WIDEST)
    radius = torch.sqrt((u / _HALF_WIDTH).square() + (v / half_height).square()) / shrunk
    # Distance to the oval's edge in units of d, near enough for a soft edge; half of the edge is inside.
    distance = (1.0 - radius) * _HALF_WIDTH
    mask = (distance / feather + 0.5).clamp(0.0, 1.0)
    return rearrange(mask * mask * (3.0 - 2.0 * mask), "h w -> 1 1 h w")


def soften(mask_b1hw: Tensor) -> Tensor:
    """A mask with hard edges (B, 1, H, W), blurred by the 5x5 Gaussian of W+ Adapter's preparation."""
    check_shape(mask_b1hw, "B 1 H W", name="the mask")
    if min(mask_b1hw.shape[-2:]) < 5:
        return mask_b1hw
    from kornia.filters import filter2d_separable  # takes 0.2 s to import, which ComfyUI's start should not

    taps = torch.tensor([[1.0, 4.0, 6.0, 4.0, 1.0]]).to(mask_b1hw) / 16.0  # OpenCV's Gaussian of 5 taps is the binomial
    return filter2d_separable(mask_b1hw, taps, taps, border_type="reflect")


def remove_background(image_bchw: Tensor, mask_b1hw: Tensor, *, colour: str = "white") -> Tensor:
    """Replace what the mask leaves out: image (B, 3, H, W) in [-1, 1], mask (B, 1, H, W) with 1 = keep.

    Raises:
        PIDiffError: sizes that do not agree, or a colour other than white, grey, black.
    """
    sizes = check_image_bchw(image_bchw)
    check_shape(mask_b1hw, f"B 1 {sizes['H']} {sizes['W']}", name="the mask of the crop")
    if colour not in COLOURS:
        raise PIDiffError(f"The background's colour should be one of {', '.join(COLOURS)}, but it is '{colour}'.")
    keep = mask_b1hw.to(image_bchw).clamp(0.0, 1.0)
    return image_bchw * keep + COLOURS[colour] * (1.0 - keep)


_LEAST_OF_HEAD = 0.05  # of the head: a mask that keeps less of it is meant for something else


@dataclass(frozen=True, eq=False)
class PersonMask:
    """What is kept of a crop: the user's mask, else the parser's, else an oval around the landmarks.

    Args:
        mask_b1hw: the user's own mask (1, 1, h, w) of the photo, 1 = keep.
        parser: finds the person if there is no such mask.
    """

    mask_b1hw: Tensor | None = None
    parser: FaceParser | None = None

    def __post_init__(self) -> None:
        if self.mask_b1hw is not None:
            object.__setattr__(self, "mask_b1hw", check_mask(self.mask_b1hw))

    def keeps(self, aligned: AlignedFace, size: tuple[int, int]) -> bool:
        """Whether the user's mask, if there is one, keeps anything of this face of a photo of this size."""
        return self.mask_b1hw is None or self._of_user(self.mask_b1hw, aligned, size)[1] >= _LEAST_OF_HEAD

    def of(self, aligned: AlignedFace, size: tuple[int, int]) -> tuple[Tensor, str]:
        """The mask (1, 1, crop size, crop size) of a face of a photo of this size, and which of the three it is.

        Raises:
            PIDiffError: the user's mask leaves nothing of the face.
        """
        if self.mask_b1hw is not None:
            mask, kept = self._of_user(self.mask_b1hw, aligned, size)
            if kept < _LEAST_OF_HEAD:
                raise PIDiffError(
                    f"The mask leaves nothing of the face: it keeps {kept:.0%} of the head. It should be 1 on the "
                    "person, else 0. Invert it (Load Image's mask is 1 for transparent pixels), paint it, or "
                    "disconnect it to use the built-in one."
                )
            return mask, "user"
        head = head_mask(aligned.landmarks, size=(aligned.size_px, aligned.size_px))
        if self.parser is not None:
            mask = soften(resize_bchw(self.parser.person_mask(aligned.image), aligned.size_px))
            if _share(mask, of=head) >= _LEAST_OF_HEAD:
                return mask, self.parser.name
        return head, "landmarks"

    def _of_user(self, mask_b1hw: Tensor, aligned: AlignedFace, size: tuple[int, int]) -> tuple[Tensor, float]:
        mask = soften(crop_mask(mask_b1hw, aligned.matrix, crop_size=aligned.size_px, size=size))
        return mask, _share(mask, of=head_mask(aligned.landmarks, size=(aligned.size_px, aligned.size_px)))


def check_mask(mask_bhw: Tensor) -> Tensor:
    """Return masks of any shape and number type as float32 in [0, 1]; PIDiffError if they are empty or not finite."""
    name = "the mask of the person"
    if mask_bhw.is_complex() or mask_bhw.is_quantized or mask_bhw.layout is not torch.strided or mask_bhw.is_meta:
        raise PIDiffError(f"{name} should hold numbers between 0 and 1, but its type is {mask_bhw.dtype}.")
    if mask_bhw.numel() == 0:
        raise PIDiffError(f"{name} is empty: its shape is {tuple(mask_bhw.shape)}. Connect one of the photo's size.")
    mask = mask_bhw.detach().float()
    low, high = (float(value) for value in mask.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PIDiffError(f"{name} holds values that are not finite (NaN or infinity).")
    return mask.clamp(0.0, 1.0) if low < 0.0 or high > 1.0 else mask


def _share(mask: Tensor, *, of: Tensor) -> float:
    return float((mask * of).sum() / of.sum().clamp_min(1e-6))
