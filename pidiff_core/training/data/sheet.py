"""The contact sheet: what `prepare` found, to look at before hours of training."""

from __future__ import annotations

import csv
import textwrap
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from ...files.whole_files import write_whole
from ...images import bchw_to_bhwc, bhwc_to_bchw, load_image, pil_from_image, resize_bchw, warp
from .buckets import CropBox
from .shards import FAILURES_FILE, SHEET_FILE, IndexEntry, bucket_key, open_shard, read_index

_TILE_PX = 144
_TEXT_PX = 34
_COLUMNS = 4  # of pairs: the training crop with its mask, the aligned face
_FAILURES = 24  # listed below the photos
_TINT = (0.25, 0.85, 0.45)  # of the head's mask


def contact_sheet(folder: Path, paths: dict[str, Path], *, photos: int) -> Path:
    """Draw photos at even distances of the index, each with the head's mask and its aligned face, and the failures.

    Args:
        folder: prepared data with an index.
        paths: the files by the names of the index.
        photos: how many.
    """
    entries = read_index(folder)
    chosen = entries[:: max(1, -(-len(entries) // photos))]
    tiles = [_tile(folder, entry, paths[entry.photo.file]) for entry in chosen if entry.photo.file in paths]
    with (folder / FAILURES_FILE).open(encoding="utf-8", newline="") as file:
        failures = [f"{row['file']}: {row['reason']}" for row in csv.DictReader(file)]
    rows = -(-len(tiles) // _COLUMNS)
    shown = [line for one in failures[:_FAILURES] for line in textwrap.wrap(one, 150)[:2]]
    if len(failures) > _FAILURES:
        shown.append(f"and {len(failures) - _FAILURES} more, in {FAILURES_FILE}")
    head = f"{len(entries)} photos, {len({entry.person for entry in entries})} people, {len(failures)} not used"
    height = 24 + rows * (_TILE_PX + _TEXT_PX) + 14 * len(shown) + 12
    sheet = Image.new("RGB", (_COLUMNS * (2 * _TILE_PX + 8), height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 6), head, fill="black")
    for number, (picture, text) in enumerate(tiles):
        x = number % _COLUMNS * (2 * _TILE_PX + 8)
        y = 24 + number // _COLUMNS * (_TILE_PX + _TEXT_PX)
        sheet.paste(picture, (x, y))
        for line, words in enumerate(text):
            draw.text((x + 2, y + _TILE_PX + 2 + 14 * line), _latin(words)[:46], fill="black")
    for number, words in enumerate(shown):
        draw.text((6, 28 + rows * (_TILE_PX + _TEXT_PX) + 14 * number), _latin(words), fill="#a00000")
    path = folder / SHEET_FILE
    write_whole(path, lambda temporary: sheet.save(temporary, format="JPEG", quality=88))
    return path


def _tile(folder: Path, entry: IndexEntry, path: Path) -> tuple[Image.Image, list[str]]:
    """Two squares side by side, and two lines of text."""
    photo = entry.photo
    first = photo.crops[0]
    image = bhwc_to_bchw(load_image(path))
    crop = CropBox(first.resized_px, first.bucket_px, first.top, first.left).cut(image)
    with open_shard(folder, entry.shard) as file:
        mask = file.get_slice(bucket_key(first.bucket_px, "masks"))[first.row : first.row + 1].float()
    tint = rearrange(torch.tensor(_TINT) * 2 - 1, "c -> 1 c 1 1")
    share = 0.45 * resize_bchw(mask, first.bucket_px)
    crop = crop * (1 - share) + tint * share
    side = photo.aligned_px
    face = warp(image, torch.tensor(photo.crop_to_photo), (side, side))
    pair = torch.cat([_square(crop), _square(face)], dim=3)
    kind, _, who = entry.person.partition(" ")
    where = "" if kind == "photo" else f" [{who}]"
    text = [f"{photo.file}{where}", f"{photo.found_by}: {photo.version[2]}"]
    return pil_from_image(bchw_to_bhwc(pair)), text


def _square(image_bchw: Tensor) -> Tensor:
    """The whole picture in a grey square of the tile's size."""
    height, width = image_bchw.shape[-2:]
    scale = _TILE_PX / max(height, width)
    small = resize_bchw(image_bchw, (max(1, round(height * scale)), max(1, round(width * scale))))
    square = torch.full((1, 3, _TILE_PX, _TILE_PX), 0.6)
    top, left = (_TILE_PX - small.shape[2]) // 2, (_TILE_PX - small.shape[3]) // 2
    square[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small
    return square


def _latin(text: str) -> str:
    """Pillow's built-in font has no other letters."""
    return text.encode("latin-1", errors="replace").decode("latin-1")
