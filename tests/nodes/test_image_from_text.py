"""PIDiffImageFromText: base64 of every kind, and its limits."""

from __future__ import annotations

import base64
import io
import textwrap

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def node(comfy, pack):
    return pack.load("nodes.image_from_text")


def encoded(picture, kind="PNG"):
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: f"data:image/png;base64,{text}",
        lambda text: "\n".join(textwrap.wrap(text, 40)) + "\n",
    ],
    ids=["plain", "data url", "lines"],
)
def test_the_pixels_are_those_of_the_file(node, write):
    image = node.ImageFromText.execute(write(encoded(Image.fromarray(PIXELS)))).result[0]
    assert image.shape == (1, 5, 7, 3)
    assert np.array_equal((image[0].numpy() * 255).round().astype(np.uint8), PIXELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The text is empty"),
        ("data:image/png;base64,", "The text is empty"),
        ("%%%%", "not base64"),
        ("aGVsbG8=", "not a picture that can be read"),
        ("A" * ((32 << 20) + 1), "more than 32 MB"),
    ],
    ids=["empty", "empty data url", "no base64", "no picture", "too long"],
)
def test_exception(node, pack, text, message):
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=message):
        node.ImageFromText.execute(text)


def test_exception_a_small_file_of_a_huge_picture(node, pack):
    huge = encoded(Image.new("1", (10_000, 5_001)))
    assert len(huge) < 100_000
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match="10000x5001 pixels, more than 50000000"):
        node.ImageFromText.execute(huge)
