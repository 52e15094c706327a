"""PIDiffImageFromText: a picture as text inside the queued prompt, for programs that do not upload files."""

from __future__ import annotations

import base64
import binascii

from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.images import load_image
from .host.inputs import checked_inputs
from .host.wire_types import schema

MOST_CHARACTERS = 32 << 20  # 24 MB of a file
MOST_PIXELS = 50_000_000


class ImageFromText(io.ComfyNode):
    """Decodes base64."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffImageFromText",
            display_name="PIDiff Image From Text (Base64, API)",
            category="PIDiff",
            description="Reads a picture from base64 text, so that a program can send it inside the prompt instead of "
            "uploading a file.",
            search_aliases=["base64", "load image from text", "api image", "data url"],
            inputs=[
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="PNG, JPEG or WebP file as base64, with or without 'data:image/png;base64,' in front. At "
                    f"most {MOST_CHARACTERS >> 20} MB of text and {MOST_PIXELS // 1_000_000} megapixels.",
                )
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The picture.")],
        )

    @classmethod
    @checked_inputs
    def execute(cls, text: str) -> io.NodeOutput:
        """One picture (1, H, W, 3)."""
        return io.NodeOutput(load_image(_bytes_of(text), name="the picture in the text", most_pixels=MOST_PIXELS))


def _bytes_of(text: str) -> bytes:
    if len(text) > MOST_CHARACTERS:
        raise PIDiffError(
            f"The text has {len(text) >> 20} MB, more than {MOST_CHARACTERS >> 20} MB. Make the picture smaller, or "
            "upload it and use Load Image."
        )
    plain = text.strip()
    if plain.startswith("data:"):
        plain = plain.partition(",")[2]
    if not plain:
        raise PIDiffError("The text is empty. Give a PNG, JPEG or WebP file as base64.")
    try:
        return base64.b64decode("".join(plain.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PIDiffError(
            f"The text is not base64 ({error}). Give a PNG, JPEG or WebP file as base64, such as the output of "
            "`base64 photo.png`."
        ) from error
