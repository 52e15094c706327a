"""Pictures in the two layouts of this project, and files of every usual kind read into them.

image_bhwc: (B, H, W, 3) float in [0, 1], sRGB: ComfyUI's IMAGE.
image_bchw: (B, 3, H, W) float in [-1, 1]: what the encoder, the generator and the face code work on.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import PIDiffError
from .shapes import check_shape

MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs, as an error where Pillow would merely warn


def check_image_bhwc(image_bhwc: Tensor, *, name: str = "the picture") -> Tensor:
    """Return the picture as float (B, H, W, 3) in [0, 1]; alpha goes over white, grey becomes RGB.

    Raises:
        PIDiffError: not (B, H, W, 1, 3 or 4), an empty dimension, or values that are not finite.
    """
    sizes = check_shape(image_bhwc, "B H W C", name=name)
    if min(sizes.values()) == 0:
        raise PIDiffError(f"{name} is empty: its shape is {tuple(image_bhwc.shape)}.")
    if sizes["C"] not in (1, 3, 4):
        shape = tuple(image_bhwc.shape)
        raise PIDiffError(f"{name} should have 1, 3 or 4 channels (B, H, W, C), but its shape is {shape}.")
    if not image_bhwc.is_floating_point():
        raise PIDiffError(f"{name} should hold floats between 0 and 1, but its type is {image_bhwc.dtype}.")
    if not torch.isfinite(image_bhwc).all():
        raise PIDiffError(f"{name} holds values that are not finite (NaN or infinity). Check the node that made it.")
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
    if not image_bchw.is_floating_point():
        raise PIDiffError(f"{name} should hold floats between -1 and 1, but its type is {image_bchw.dtype}.")
    if not torch.isfinite(image_bchw).all():
        raise PIDiffError(f"{name} holds values that are not finite (NaN or infinity).")
    return sizes


def bhwc_to_bchw(image_bhwc: Tensor, *, name: str = "the picture") -> Tensor:
    """(B, H, W, C) in [0, 1] -> (B, 3, H, W) in [-1, 1], with the checks of `check_image_bhwc`."""
    checked = check_image_bhwc(image_bhwc, name=name)
    return rearrange(checked, "b h w c -> b c h w") * 2.0 - 1.0


def bchw_to_bhwc(image_bchw: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) in [0, 1], float32, clamped, contiguous."""
    image_bhwc = rearrange(image_bchw.float().clamp(-1.0, 1.0), "b c h w -> b h w c")
    return (image_bhwc * 0.5 + 0.5).contiguous()


def resize_bchw(image_bchw: Tensor, size_px: int | tuple[int, int]) -> Tensor:
    """Resize to a square of `size_px`, or to (height, width): bilinear, antialiased where it shrinks."""
    size = (size_px, size_px) if isinstance(size_px, int) else size_px
    if tuple(image_bchw.shape[-2:]) == tuple(size):
        return image_bchw
    return torch.nn.functional.interpolate(image_bchw, size=size, mode="bilinear", align_corners=False, antialias=True)


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


def load_image(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Tensor:
    """Read a picture file (or its bytes) into image_bhwc (1, H, W, 3) float32 in [0, 1].

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
        if math.prod(picture.size) > MAX_PIXELS:
            width_px, height_px = picture.size
            raise PIDiffError(f"{name} has {width_px}x{height_px} pixels, more than {MAX_PIXELS}. Make it smaller.")
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PIDiffError(f"{name} is not a picture that can be read. Give a PNG, JPEG or WebP file.") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        raise PIDiffError(f"{name} is damaged or cut short ({error}). Copy or download it again.") from error
    return image_from_pil(picture)
