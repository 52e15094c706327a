"""One picture that shows a demo run: the person on the left, with and without the identity on the right."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER = (250, 249, 246)
INK = (34, 36, 40)
GREY = (118, 121, 128)
ACCENT = (196, 78, 42)
SMALLEST_TILE_PX, LARGEST_TILE_PX = 256, 512
# At the smallest tile; everything grows with it.
GAP, MARGIN, CAPTION, LABEL, HEADER, FOOTER = 18, 36, 78, 26, 96, 52


@dataclass(frozen=True)
class Column:
    """One prompt and seed, drawn with and without the identity."""

    prompt: str
    seed: int
    with_identity: Image.Image
    without: Image.Image


def contact_sheet(person: list[tuple[str, Image.Image]], columns: list[Column], *, footer: str = "") -> Image.Image:
    """Lay out the pictures; generated ones at their own size, limited to 256 to 512 px.

    Args:
        person: labelled pictures of the left column, from top to bottom: the photo, the aligned crop, ...
        columns: generated pictures, from left to right.
        footer: one line at the bottom.
    """
    tile_px = min(max(SMALLEST_TILE_PX, *(column.with_identity.width for column in columns)), LARGEST_TILE_PX)

    def px(length: int) -> int:
        return round(length * tile_px / SMALLEST_TILE_PX)

    step_px, row_px = tile_px + px(GAP), tile_px + px(LABEL + 14)
    body_px = 2 * row_px + px(CAPTION)
    # The pictures of the person share the height of the two rows.
    room_px = body_px - px(16)
    side_px = min(tile_px, room_px // max(1, len(person)) - px(40))
    margin_px, header_px = px(MARGIN), px(HEADER)
    left_px = 2 * margin_px + side_px
    width = left_px + len(columns) * step_px - px(GAP) + margin_px
    sheet = Image.new("RGB", (width, header_px + body_px + px(FOOTER)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin_px, px(28)), "PIDiff", INK, font=_font(px(34)))
    draw.text((margin_px + px(128), px(42)), "one photo, one person, any prompt", GREY, font=_font(px(18)))
    rule_px = left_px - margin_px // 2
    draw.line((rule_px, header_px, rule_px, header_px + room_px), (224, 221, 214), px(2))

    for number, (label, image) in enumerate(person):
        top = header_px + number * (room_px // len(person))
        draw.text((margin_px, top), label, ACCENT if number == 0 else GREY, font=_font(px(16)))
        _paste(sheet, image, margin_px, top + px(LABEL), side_px)

    rows = (("with the identity", ACCENT, "with_identity"), ("without it, same seeds", GREY, "without"))
    for row, (label, colour, attribute) in enumerate(rows):
        top = header_px + row * row_px
        draw.text((left_px, top), label, colour, font=_font(px(16)))
        for number, column in enumerate(columns):
            _paste(sheet, getattr(column, attribute), left_px + number * step_px, top + px(LABEL), tile_px)
    for number, column in enumerate(columns):
        top, x = header_px + 2 * row_px - px(6), left_px + number * step_px
        lines = textwrap.wrap(column.prompt, 34)
        lines = [*lines[:2], lines[2] + " ..."] if len(lines) > 3 else lines
        draw.multiline_text((x, top), "\n".join(lines), INK, font=_font(px(14)), spacing=px(5))
        draw.text((x, top + px(62)), f"seed {column.seed}", GREY, font=_font(px(12)))
    draw.text((margin_px, sheet.height - px(34)), footer, GREY, font=_font(px(13)))
    return sheet


def _paste(sheet: Image.Image, image: Image.Image, x: int, y: int, side_px: int) -> None:
    """Paste a picture, as large as it fits into a square without cropping, with a thin frame."""
    fitted = ImageOps.contain(image.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)
    framed = ImageOps.expand(fitted, border=1, fill=(210, 207, 200))
    sheet.paste(framed, (x - 1, y - 1))


def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size_px)
