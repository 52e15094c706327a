"""One picture that shows a demo run: the person on the left, with and without the identity on the right."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER = (250, 249, 246)
INK = (34, 36, 40)
GREY = (118, 121, 128)
ACCENT = (196, 78, 42)
TILE_PX = 256
GAP_PX = 18
MARGIN_PX = 36
CAPTION_PX = 78


@dataclass(frozen=True)
class Column:
    """One prompt and seed, drawn with and without the identity."""

    prompt: str
    seed: int
    with_identity: Image.Image
    without: Image.Image


def contact_sheet(person: list[tuple[str, Image.Image]], columns: list[Column], *, footer: str = "") -> Image.Image:
    """Lay the pictures out.

    Args:
        person: labelled pictures of the left column, from top to bottom: the photo, the aligned crop, ...
        columns: what was drawn, from left to right.
        footer: one line at the bottom.
    """
    row_px = TILE_PX + GAP_PX
    header_px = 96
    body_px = 2 * (TILE_PX + 40) + CAPTION_PX
    # The pictures of the person share the height of the two rows beside them.
    room_px = body_px - 16
    side_px = min(TILE_PX, room_px // max(1, len(person)) - 40)
    left_px = 2 * MARGIN_PX + side_px
    width = left_px + len(columns) * row_px - GAP_PX + MARGIN_PX
    sheet = Image.new("RGB", (width, header_px + body_px + 52), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 28), "PIDiff", INK, font=_font(34))
    draw.text((MARGIN_PX + 128, 42), "one photo, one person, any prompt", GREY, font=_font(18))
    draw.line(
        (left_px - MARGIN_PX // 2, header_px, left_px - MARGIN_PX // 2, header_px + body_px - 16), (224, 221, 214), 2
    )

    for number, (label, image) in enumerate(person):
        top = header_px + number * (room_px // len(person))
        draw.text((MARGIN_PX, top), label, ACCENT if number == 0 else GREY, font=_font(16))
        _paste(sheet, image, MARGIN_PX, top + 26, side_px)

    rows = (("with the identity", ACCENT, "with_identity"), ("without it, same seeds", GREY, "without"))
    for row, (label, colour, attribute) in enumerate(rows):
        top = header_px + row * (TILE_PX + 40)
        draw.text((left_px, top), label, colour, font=_font(16))
        for number, column in enumerate(columns):
            _paste(sheet, getattr(column, attribute), left_px + number * row_px, top + 26, TILE_PX)
    for number, column in enumerate(columns):
        top = header_px + 2 * (TILE_PX + 40) - 6
        lines = textwrap.wrap(column.prompt, 34)
        lines = [*lines[:2], lines[2] + " ..."] if len(lines) > 3 else lines
        draw.multiline_text((left_px + number * row_px, top), "\n".join(lines), INK, font=_font(14), spacing=5)
        draw.text((left_px + number * row_px, top + 62), f"seed {column.seed}", GREY, font=_font(12))
    draw.text((MARGIN_PX, sheet.height - 34), footer, GREY, font=_font(13))
    return sheet


def _paste(sheet: Image.Image, image: Image.Image, x: int, y: int, side_px: int) -> None:
    """Paste a picture, as large as it fits into a square without cropping, with a thin frame."""
    fitted = ImageOps.contain(image.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)
    framed = ImageOps.expand(fitted, border=1, fill=(210, 207, 200))
    sheet.paste(framed, (x - 1, y - 1))


def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size_px)
