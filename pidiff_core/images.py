"""Pictures in the two layouts of this project, files of every usual kind read into them, and pictures under a matrix.

image_bhwc: (B, H, W, 3) float in [0, 1], sRGB: ComfyUI's IMAGE.
image_bchw: (B, 3, H, W) float in [-1, 1]: what the encoder, the generator and the detectors work on.

A photo may have 49 megapixels: it stays in the host's own memory as image_bhwc, and `cut_bchw` and `reduced_bchw` make
image_bchw of the parts and sizes that are needed.

Coordinates are (x, y) in pixels; whole numbers are the centres of pixels. Matrices are (3, 3) and act on (x, y, 1).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import PIDiffError
from .shapes import check_shape

MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs, as an error where Pillow would merely warn


def check_image_bhwc(image_bhwc: Tensor, *, name: str = "the picture") -> Tensor:
    """Return the picture as float32 (B, H, W, 3) in [0, 1]; alpha goes over white, grey becomes RGB.

    A picture that is all that already is returned as it is, without a copy.

    Raises:
        PIDiffError: not (B, H, W, 1, 3 or 4), an empty dimension, or values that are not finite.
    """
    sizes = check_shape(image_bhwc, "B H W C", name=name)
    if min(sizes.values()) == 0:
        raise PIDiffError(f"{name} is empty: its shape is {tuple(image_bhwc.shape)}.")
    if sizes["C"] not in (1, 3, 4):
        shape = tuple(image_bhwc.shape)
        raise PIDiffError(f"{name} should have 1, 3 or 4 channels (B, H, W, C), but its shape is {shape}.")
    low, high = _range(image_bhwc, "floats between 0 and 1", name=name)
    image_bhwc = image_bhwc.float()
    if low < 0.0 or high > 1.0:
        image_bhwc = image_bhwc.clamp(0.0, 1.0)
    if sizes["C"] == 1:
        return image_bhwc.expand(-1, -1, -1, 3)
    if sizes["C"] == 4:
        colour, alpha = image_bhwc[..., :3], image_bhwc[..., 3:]
        return colour * alpha + (1.0 - alpha)
    return image_bhwc


def check_image_bchw(image_bchw: Tensor, *, name: str = "the picture") -> dict[str, int]:
    """Check a (B, 3, H, W) float picture and return its sizes {"B", "H", "W"}; PIDiffError says what is wrong."""
    sizes = check_shape(image_bchw, "B 3 H W", name=name)
    if min(sizes.values()) == 0:
        raise PIDiffError(f"{name} is empty: its shape is {tuple(image_bchw.shape)}.")
    _range(image_bchw, "floats between -1 and 1", name=name)
    return sizes


def check_photo(photo_bhwc: Tensor) -> dict[str, int]:
    """Check one photo (1, H, W, 3) in [0, 1] and return its sizes {"H", "W"}; PIDiffError says what is wrong."""
    sizes = check_shape(photo_bhwc, "B H W 3", name="the photo")
    if sizes["B"] != 1:
        raise PIDiffError(f"Faces are searched one photo at a time, but {sizes['B']} were given.")
    if min(sizes.values()) == 0:
        raise PIDiffError(f"the photo is empty: its shape is {tuple(photo_bhwc.shape)}.")
    return sizes


def _range(image: Tensor, expected: str, *, name: str) -> tuple[float, float]:
    """The lowest and the highest value, without a copy of the picture; PIDiffError for other types and for NaN."""
    if not image.is_floating_point() or image.layout is not torch.strided or image.is_meta:
        raise PIDiffError(f"{name} should hold {expected}, but its type is {image.dtype} ({image.layout}).")
    if image.element_size() < 2:  # 8-bit floats cannot be compared
        image = image.to(torch.float16)
    low, high = (float(value) for value in image.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PIDiffError(f"{name} holds values that are not finite (NaN or infinity). Check the node that made it.")
    return low, high


def bhwc_to_bchw(image_bhwc: Tensor, *, name: str = "the picture") -> Tensor:
    """(B, H, W, C) in [0, 1] -> (B, 3, H, W) in [-1, 1], with the checks of `check_image_bhwc`."""
    checked = check_image_bhwc(image_bhwc, name=name)
    return rearrange(checked, "b h w c -> b c h w") * 2.0 - 1.0


def bchw_to_bhwc(image_bchw: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) in [0, 1], float32, clamped, contiguous."""
    image_bhwc = rearrange(image_bchw.float().clamp(-1.0, 1.0), "b c h w -> b h w c")
    return (image_bhwc * 0.5 + 0.5).contiguous()


def resize_bchw(image_bchw: Tensor, size_px: int | tuple[int, int]) -> Tensor:
    """Resize to a square of `size_px`, or to (height, width): bilinear, antialiased if it shrinks."""
    size = (size_px, size_px) if isinstance(size_px, int) else size_px
    if tuple(image_bchw.shape[-2:]) == tuple(size):
        return image_bchw
    return F.interpolate(image_bchw, size=size, mode="bilinear", align_corners=False, antialias=True)


def cut_bchw(
    photo_bhwc: Tensor, *, left: int, top: int, right: int, bottom: int, reduction: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A part of a photo, perhaps reduced, as image_bchw.

    Args:
        photo_bhwc: (1, H, W, 3) in [0, 1].
        left, top, right, bottom: the part in px, right and bottom excluded. What of it is outside of the photo is left
            out; one pixel at least remains.
        reduction: photo pixels for each pixel of the part, 1 or more.

    Returns:
        The part (1, 3, h, w) in [-1, 1], and the matrix (3, 3): part px -> photo px.
    """
    height, width = photo_bhwc.shape[1:3]
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    part = rearrange(photo_bhwc[:, top:bottom, left:right].float(), "b h w c -> b c h w")
    to_photo = shift(left, top)
    if reduction > 1.0:
        size = max(1, round((bottom - top) / reduction)), max(1, round((right - left) / reduction))
        part = resize_bchw(part, size)
        to_photo = to_photo @ pixel_scaling((right - left) / size[1], (bottom - top) / size[0])
    return (part * 2.0 - 1.0).contiguous(), to_photo


def reduced_bchw(photo_bhwc: Tensor, long_side_px: int) -> tuple[Tensor, Tensor]:
    """A photo whose longer side has at most `long_side_px`, as image_bchw, and the matrix: its px -> photo px."""
    height, width = photo_bhwc.shape[1:3]
    return cut_bchw(photo_bhwc, left=0, top=0, right=width, bottom=height, reduction=max(height, width) / long_side_px)


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """(3, 3) applied to points (N, 2)."""
    return points.to(matrix) @ matrix[:2, :2].T + matrix[:2, 2]


def transform_box(matrix: Tensor, box_xyxy: Tensor) -> Tensor:
    """A box (left, top, right, bottom) after a turn and an enlargement: upright, and no larger for the turn."""
    middle = transform_points(matrix, (box_xyxy[None, :2] + box_xyxy[None, 2:]) / 2)[0]
    extent = matrix[:2, :2].abs() @ (box_xyxy[2:] - box_xyxy[:2]).to(matrix)
    extent = extent * matrix[:2, :2].det().abs().sqrt() / matrix[:2, :2].abs().sum(dim=1)
    return torch.cat([middle - extent / 2, middle + extent / 2])


def pixel_scaling(x: float, y: float | None = None) -> Tensor:
    """(3, 3): pixel centres of a picture -> those of the same picture enlarged by these factors."""
    y = x if y is None else y
    return torch.tensor([[x, 0.0, (x - 1.0) / 2.0], [0.0, y, (y - 1.0) / 2.0], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> Tensor:
    """(3, 3): move by (x, y)."""
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def rotation(degrees: float, scale: float = 1.0) -> Tensor:
    """(3, 3): turn clockwise, as one sees it, about (0, 0), and enlarge."""
    cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def warp(image_bchw: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample a picture bilinearly: target pixel (x, y) takes the source's value at matrix @ (x, y, 1), 0 outside.

    Args:
        image_bchw: (B, C, H, W).
        matrix: (3, 3), target px -> source px.
        size: height and width of the target.
    """
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    targets = rearrange(torch.stack([x, y], dim=-1).float(), "h w xy -> (h w) xy")
    sources = transform_points(matrix, targets)
    extent = torch.tensor([image_bchw.shape[3], image_bchw.shape[2]], dtype=torch.float32)
    grid = rearrange((sources * 2.0 + 1.0) / extent - 1.0, "(h w) xy -> 1 h w xy", h=height)
    grid = grid.to(image_bchw).expand(len(image_bchw), -1, -1, -1)
    return F.grid_sample(image_bchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def turn(image_bchw: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Turn a picture counter-clockwise, as one sees it, about its centre; the canvas grows, its corners are 0.

    Quarter turns move pixels and change none.

    Returns:
        The turned picture (B, C, h, w), and the matrix (3, 3): turned px -> the picture's px.
    """
    height, width = image_bchw.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.rot90(image_bchw, round(degrees / 90.0), dims=(2, 3)) if degrees % 90.0 == 0 else None
    size = (
        (math.ceil(width * abs(sin) + height * abs(cos)), math.ceil(width * abs(cos) + height * abs(sin)))
        if turned is None
        else (turned.shape[2], turned.shape[3])
    )
    to_picture = (
        shift((width - 1) / 2, (height - 1) / 2) @ rotation(degrees) @ shift(-(size[1] - 1) / 2, -(size[0] - 1) / 2)
    )
    return (warp(image_bchw, to_picture, size) if turned is None else turned), to_picture


def image_from_pil(picture: Image.Image) -> Tensor:
    """A Pillow picture of any mode -> image_bhwc (1, H, W, 3): EXIF rotation applied, alpha over white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's convert() would clip to 255
        grey = torch.from_numpy(np.array(picture, dtype=np.float32) / 65535.0)
        return check_image_bhwc(rearrange(grey, "h w -> 1 h w 1"))
    if picture.mode == "F":  # float grey, by convention in [0, 1]
        return check_image_bhwc(rearrange(torch.from_numpy(np.array(picture)), "h w -> 1 h w 1"))
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    pixels = torch.from_numpy(np.array(picture.convert(mode), dtype=np.float32) / 255.0)
    return check_image_bhwc(rearrange(pixels, "h w c -> 1 h w c"))


def pil_from_image(image_bhwc: Tensor) -> Image.Image:
    """The first picture of image_bhwc (B, H, W, 3) in [0, 1] as an 8-bit RGB Pillow picture."""
    pixels = check_image_bhwc(image_bhwc)[0].float().mul(255.0).round().to(torch.uint8)
    return Image.fromarray(pixels.cpu().numpy())


def load_image(
    source: str | os.PathLike[str] | bytes, *, name: str | None = None, most_pixels: int = MAX_PIXELS
) -> Tensor:
    """Read a picture file (or its bytes) into image_bhwc (1, H, W, 3) float32 in [0, 1].

    A file that names more than `most_pixels` pixels is refused before it is decoded.

    Raises:
        PIDiffError: missing, empty, a directory, truncated, no picture, or too large to be one.
    """
    name = name or ("the picture" if isinstance(source, bytes) else f"the picture {os.fspath(source)}")
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        if path.is_dir():
            raise PIDiffError(f"{path} is a folder, not a picture. Give the path of a PNG, JPEG or WebP file.")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PIDiffError(f"Cannot read {name}: {error.strerror or error}. Check the path.") from error
    if not data:
        raise PIDiffError(f"{name} is an empty file. Copy or download it again.")
    try:
        picture = Image.open(io.BytesIO(data))
        if math.prod(picture.size) > most_pixels:
            width_px, height_px = picture.size
            raise PIDiffError(f"{name} has {width_px}x{height_px} pixels, more than {most_pixels}. Make it smaller.")
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PIDiffError(f"{name} is not a picture that can be read. Give a PNG, JPEG or WebP file.") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        raise PIDiffError(f"{name} is damaged or cut short ({error}). Copy or download it again.") from error
    return image_from_pil(picture)


def with_labels(image_bhwc: Tensor, labels: Sequence[str]) -> Tensor:
    """A batch (B, H, W, 3) in [0, 1] with a line of text at the bottom of each picture; only those rows change.

    labels: one for each picture.
    """
    height = image_bhwc.shape[1]
    band_px = min(height, max(14, height // 12))
    labelled = image_bhwc.clone()
    for picture, label in zip(labelled, labels, strict=True):
        dark = picture[height - band_px :] * 0.35  # so that white text can be read
        picture[height - band_px :] = _with_text(dark, label)
    return labelled


def labelled_grid(image_bhwc: Tensor, *, columns: Sequence[str], rows: Sequence[str]) -> Tensor:
    """Pictures (R C, H, W, 3) in [0, 1], row by row, as one (1, h, w, 3): labels above the columns, left of the rows.

    A band whose labels are all empty is left out. Row labels are read from the bottom to the top.
    """
    if len(image_bhwc) != len(rows) * len(columns):
        raise PIDiffError(f"{len(image_bhwc)} pictures do not fill {len(rows)} rows of {len(columns)}.")
    height, width = image_bhwc.shape[1:3]
    band_px = max(18, min(height, width) // 10)
    above, left = band_px * any(columns), band_px * any(rows)
    grid = torch.full((1, above + len(rows) * height, left + len(columns) * width, 3), 0.1)
    grid[0, above:, left:] = rearrange(image_bhwc.float().cpu(), "(r c) h w x -> (r h) (c w) x", c=len(columns))
    if above:
        for number, label in enumerate(columns):
            place = grid[0, :above, left + number * width : left + (number + 1) * width]
            place.copy_(_with_text(place, label))
    if left:
        for number, label in enumerate(rows):
            place = grid[0, above + number * height : above + (number + 1) * height, :left]
            place.copy_(torch.rot90(_with_text(torch.rot90(place, -1), label)))
    return grid


def _with_text(band_hwc: Tensor, text: str) -> Tensor:
    """(h, W, 3) in [0, 1] with one line of white text in its middle, made smaller if it is too long."""
    band = pil_from_image(band_hwc[None])
    draw, size = ImageDraw.Draw(band), 0.7 * band.height
    try:
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(size=size)
        if (length := draw.textlength(text, font=font)) > 0.96 * band.width:
            font = ImageFont.load_default(size=max(6.0, size * 0.96 * band.width / length))
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType
        font = ImageFont.load_default()
    draw.text((band.width / 2, band.height / 2), text, fill="white", font=font, anchor="mm")
    return torch.from_numpy(np.array(band, dtype=np.float32) / 255.0)
