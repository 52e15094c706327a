"""Alignment by the rule of the FFHQ data set (Karras et al., arXiv 1812.04948, appendix A), from five points.

The crop is a rotated square: its axes follow the line between the eyes and the line from the eyes to the mouth, its
half side is twice the eyes' distance or 1.8 times the way from the eyes to the mouth, whichever is longer. What lies
outside of the picture is its mirror image, blurred and faded to the median colour.

Coordinates are (x, y) in pixels; whole numbers are the centres of pixels, in the picture and in the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bchw, resize_bchw
from .geometry import pixel_scaling, shift, transform_points, warp
from .landmarks import check_landmarks, landmarks_in_crop

_MAX_OVERSAMPLING = 4  # the crop is sampled at up to this many times its size and then reduced


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A crop and the way back to the picture that it was taken from."""

    image: Tensor  # (1, 3, size, size) in [-1, 1]
    landmarks: Tensor  # (5, 2) in the crop's pixels
    matrix: Tensor  # (3, 3): (x, y, 1) in the picture -> (x, y, 1) in the crop

    @property
    def inverse(self) -> Tensor:
        """(3, 3): (x, y, 1) in the crop -> (x, y, 1) in the picture."""
        return torch.linalg.inv(self.matrix.double()).float()

    @property
    def size_px(self) -> int:
        """The crop's side."""
        return self.image.shape[-1]


def ffhq_quad(landmarks: Tensor) -> Tensor:
    """Five points (5, 2) -> corners of the crop in the picture (4, 2), from the top left counter-clockwise."""
    points = check_landmarks(landmarks).double()
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    across, down = points[1] - points[0], mouth - eyes
    # Half the sum of "across" and "down turned by 90 degrees": both lines vote for the face's direction.
    x = across + torch.stack([down[1], -down[0]])
    length = x.norm()
    if length < 1e-6:
        raise PIDiffError("The landmarks are upside down: the mouth lies where the eyes' line says the forehead is.")
    x = x / length * max(2.0 * float(across.norm()), 1.8 * float(down.norm()))
    y = torch.stack([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return torch.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]).float()


def align_face(image_bchw: Tensor, landmarks: Tensor, *, size: int) -> AlignedFace:
    """Cut one face out of one picture.

    Args:
        image_bchw: (1, 3, H, W) in [-1, 1].
        landmarks: (5, 2) in its pixels; they may lie outside of it.
        size: the crop's side in px.

    Raises:
        PIDiffError: not one picture, points that are no face, or a crop that has nothing of the picture in it.
    """
    sizes = check_image_bchw(image_bchw)
    if sizes["B"] != 1:
        raise PIDiffError(f"Faces are aligned one picture at a time, but {sizes['B']} were given.")
    points = check_landmarks(landmarks)
    quad = ffhq_quad(points)
    picture = torch.tensor([sizes["W"], sizes["H"]], dtype=torch.float32)
    if (quad.amax(dim=0) < 0).any() or (quad.amin(dim=0) > picture - 1).any():
        raise PIDiffError(
            f"The face at {points.mean(dim=0).tolist()} lies outside of the picture of {sizes['W']}x{sizes['H']} px. "
            "Give the landmarks in this picture's pixels."
        )
    matrix = _square_to_crop(quad, size)
    image, to_part = _surroundings(image_bchw.float(), quad, size)
    side = float((quad[3] - quad[0]).norm()) * float(to_part[0, 0])
    factor = min(max(math.ceil(side / size), 1), _MAX_OVERSAMPLING)
    fine_to_part = to_part.double() @ torch.linalg.inv(matrix.double()) @ pixel_scaling(1.0 / factor).double()
    fine = warp(image, fine_to_part.float(), (size * factor, size * factor))
    return AlignedFace(resize_bchw(fine, size), transform_points(matrix, points), matrix)


def whole_picture(image_bchw: Tensor, *, size: int) -> AlignedFace:
    """One picture (1, 3, H, W) that is a portrait already: its central square, with an average face's landmarks."""
    sizes = check_image_bchw(image_bchw)
    side = min(sizes["H"], sizes["W"])
    left, top = (sizes["W"] - side) // 2, (sizes["H"] - side) // 2
    square = image_bchw[:, :, top : top + side, left : left + side]
    matrix = pixel_scaling(size / side) @ shift(-left, -top)
    return AlignedFace(resize_bchw(square.float(), size), landmarks_in_crop(size), matrix)


def crop_mask(mask_b1hw: Tensor, aligned: AlignedFace) -> Tensor:
    """A mask in the picture's frame (1, 1, H, W) -> the same in the crop's frame (1, 1, size, size), 0 outside."""
    reduction = max(1.0, 1.0 / float(aligned.matrix[:2, 0].norm()))  # picture pixels a crop pixel
    height, width = mask_b1hw.shape[-2:]
    smaller = resize_bchw(mask_b1hw, (max(1, round(height / reduction)), max(1, round(width / reduction))))
    to_smaller = pixel_scaling(smaller.shape[3] / width, smaller.shape[2] / height)
    return warp(smaller, to_smaller @ aligned.inverse, (aligned.size_px, aligned.size_px))


def paste_mask(mask_b1hw: Tensor, aligned: AlignedFace, *, size: tuple[int, int]) -> Tensor:
    """A mask in the crop's frame (1, 1, h, h) of any size -> in the picture's frame (1, 1, H, W), 0 outside."""
    scale = float(aligned.matrix[:2, 0].norm()) * mask_b1hw.shape[-1] / aligned.size_px  # mask pixels a picture pixel
    if scale > 1.0:
        smaller = max(1, round(mask_b1hw.shape[-1] / scale))
        mask_b1hw = resize_bchw(mask_b1hw, smaller)
    to_mask = pixel_scaling(mask_b1hw.shape[-1] / aligned.size_px) @ aligned.matrix
    return warp(mask_b1hw, to_mask, size)


def _square_to_crop(quad: Tensor, size: int) -> Tensor:
    """(3, 3): picture px -> crop px; the quad's corners go to the outer corners of the crop's corner pixels."""
    top_left, across, down = quad[0].double(), (quad[3] - quad[0]).double(), (quad[1] - quad[0]).double()
    to_picture = torch.eye(3, dtype=torch.float64)
    to_picture[:2, 0], to_picture[:2, 1] = across / size, down / size
    to_picture[:2, 2] = top_left + (across + down) / size / 2.0
    return torch.linalg.inv(to_picture).float()


def _surroundings(image: Tensor, quad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The part of the picture that the crop needs, mirrored outwards where it ends.

    Returns:
        The part (1, 3, h, w), and the matrix (3, 3) picture px -> part px.
    """
    side = float((quad[3] - quad[0]).norm())
    to_part = torch.eye(3)
    if (shrink := math.floor(side / size / 2.0)) > 1:  # far larger than needed: reduce first, with antialiasing
        height, width = image.shape[-2:]
        image = resize_bchw(image, (max(1, round(height / shrink)), max(1, round(width / shrink))))
        to_part = pixel_scaling(image.shape[3] / width, image.shape[2] / height)
        quad, side = transform_points(to_part, quad), side / shrink
    height, width = image.shape[-2:]
    border = max(round(side * 0.1), 3)
    low, high = quad.amin(dim=0).floor().int().tolist(), quad.amax(dim=0).ceil().int().tolist()
    left, top = max(low[0] - border, 0), max(low[1] - border, 0)
    right, bottom = min(high[0] + border, width), min(high[1] + border, height)
    left, top = min(left, width - 1), min(top, height - 1)
    image = image[:, :, top : max(bottom, top + 1), left : max(right, left + 1)]
    low, high = [low[0] - left, low[1] - top], [high[0] - left, high[1] - top]
    height, width = image.shape[-2:]
    before = [border - low[0], border - low[1]]
    after = [high[0] + border - width, high[1] + border - height]
    pads = [max(pad, 0) for pad in (*before, *after)]
    if max(pads) > border - 4:
        pads = [max(pad, round(side * 0.3)) for pad in pads]
        image = _mirror_pad(image, pads, blur_px=side * 0.02)
        left, top = left - pads[0], top - pads[1]
    to_part[:2, 2] -= torch.tensor([left, top], dtype=torch.float32)
    return image, to_part


def _mirror_pad(image: Tensor, pads: list[int], *, blur_px: float) -> Tensor:
    """Mirror outwards by `pads` (left, top, right, bottom), blur what is new, fade its far end to the median colour."""
    from kornia.filters import gaussian_blur2d  # takes 0.2 s to import, which ComfyUI's start should not

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
    outside = 1.0 - inside  # 1 at the outermost pixel, 0 where the picture begins, negative in it
    radius = max(1, math.ceil(blur_px * 3.0))
    radius = min(radius, min(padded.shape[-2:]) - 1)
    blurred = gaussian_blur2d(padded, (2 * radius + 1, 2 * radius + 1), (blur_px, blur_px), border_type="replicate")
    padded = padded + (blurred - padded) * (outside * 3.0 + 1.0).clamp(0.0, 1.0).to(padded)
    median = padded.flatten(2).median(dim=2).values[..., None, None]
    return padded + (median - padded) * outside.clamp(0.0, 1.0).to(padded)


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Indices of any size, reflected into [0, length) without repeating the edge."""
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)
