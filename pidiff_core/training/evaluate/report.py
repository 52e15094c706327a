"""What an evaluation writes: a table, a JSON file, a contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from PIL import ImageDraw
from torch import Tensor

from ...files.whole_files import write_whole
from ...images import pil_from_image, resize_bchw
from ..data.shards import write_text
from .evaluate import Evaluation
from .options import EvaluateOptions

BASE = "base alone"
# What a measure is, and which way is better.
MEASURES = {
    "retrieval": "share of pictures whose nearest person is the right one (higher)",
    "similarity": "1 - distance to the person's other photos (higher)",
    "faces_found": "share of pictures in which the recogniser finds a face (higher)",
    "text_alignment": "CLIP's cosine of picture and prompt (near the base's)",
    "background_drift": "difference to the base outside the heads, same seed (lower)",
    "localisation_iou": "overlap of localisation map and head on photos (higher)",
    "diversity": "difference between seeds of one person and prompt (near the base's)",
    "edit_inside": "change of the head when the codes are edited (higher)",
    "edit_outside": "change outside the head when the codes are edited (lower)",
}


def table(evaluation: Evaluation) -> str:
    """One row a measure, one column an adapter and one for the base alone."""
    names = [BASE if name == "" else name for name in evaluation.measures]
    rows = [["", *names]]
    for measure, meaning in MEASURES.items():
        values = [numbers.get(measure, math.nan) for numbers in evaluation.measures.values()]
        if not all(map(math.isnan, values)):
            rows.append([measure, *("-" if math.isnan(value) else f"{value:.3f}" for value in values), meaning])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(names) + 1)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join([*cells, *row[len(names) + 1 :]]).rstrip())
    return "\n".join([*lines, *evaluation.notes]) + "\n"


def as_json(evaluation: Evaluation) -> dict[str, Mapping[str, float | None]]:
    """Adapter's name -> measure -> number; null for what was not measured."""
    return {
        name or BASE: {key: None if math.isnan(value) else round(value, 5) for key, value in numbers.items()}
        for name, numbers in evaluation.measures.items()
    }


def write_report(evaluation: Evaluation, options: EvaluateOptions) -> Path:
    """Write table.txt, evaluation.json and sheet.jpg into `options.out`; returns the folder."""
    folder = Path(options.out)
    write_text(folder / "table.txt", table(evaluation))
    facts = {"people": len(evaluation.references), "prompts": options.prompts, "seeds": options.seeds}
    content = {"measures": as_json(evaluation), "settings": facts, "notes": evaluation.notes}
    write_text(folder / "evaluation.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    _write_sheet(evaluation, options, folder / "sheet.jpg")
    return folder


def _write_sheet(evaluation: Evaluation, options: EvaluateOptions, path: Path) -> None:
    """A row for each person and column group for each prompt: the photo, the base, then every adapter, first seed."""
    count = min(options.sheet_people, len(evaluation.references))
    rows = []
    for person in range(count):
        tiles = [evaluation.references[person]]
        for prompt in range(len(options.prompts)):
            index = (person * len(options.prompts) + prompt) * options.seeds
            tiles += [images[index] for images in evaluation.pictures.values()]
        rows.append(torch.cat([_tile(tile) for tile in tiles], dim=1))
    picture = pil_from_image(torch.cat(rows, dim=0)[None])
    names = ["photo", *[name or BASE for _ in options.prompts for name in evaluation.pictures]]
    draw = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        draw.text((number * _TILE_PX + 4, 4), name[:20], fill="white", stroke_width=1, stroke_fill="black")
    write_whole(path, lambda temporary: picture.save(temporary, format="JPEG", quality=90))


_TILE_PX = 128


def _tile(image_hwc: Tensor) -> Tensor:
    """The middle square of a picture, at the sheet's size."""
    height, width = image_hwc.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = rearrange(image_hwc[top : top + side, left : left + side], "h w c -> 1 c h w")
    return rearrange(resize_bchw(square, _TILE_PX), "1 c h w -> h w c")
