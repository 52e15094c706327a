"""What goes wrong reaches the user as a sentence in the queue's error, and the next job runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from comfy_client import WorkflowError


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def mini(api_workflow):
    workflow = api_workflow("pidiff_mini")
    workflow["8"]["inputs"]["steps"] = 1
    return workflow


@pytest.fixture
def next_job_runs(server, mini, photo):
    """After the test, the same server still draws."""
    yield
    mini["2"]["inputs"]["image"] = server.upload_image(photo)
    assert server.run(mini).images("10")


def broken_photos(photo) -> dict[str, bytes]:
    gradient = np.linspace(0, 255, 256, dtype=np.uint8)
    return {
        "no_face.png": png(np.stack(np.broadcast_arrays(gradient[:, None], gradient[None, :], gradient[:1]), axis=-1)),
        "one_pixel.png": png(np.full((1, 1, 3), 128, np.uint8)),
        "truncated.png": photo.read_bytes()[:20_000],
    }


@pytest.mark.parametrize("name", ["no_face.png", "one_pixel.png", "truncated.png"])
def test_a_photo_without_a_usable_face(server, mini, photo, next_job_runs, name):
    mini["2"]["inputs"]["image"] = server.upload_image(broken_photos(photo)[name], name=name)
    with pytest.raises(WorkflowError, match="face") as raised:
        server.run(mini)
    assert raised.value.node_type == "EncodeIdentityW+"
    assert raised.value.exception_type.endswith("PIDiffError")
    assert len(raised.value.message) > 60


def test_a_missing_photo(server, mini, next_job_runs):
    mini["2"]["inputs"]["image"] = "there_is_no_such_photo.png"
    with pytest.raises(WorkflowError, match="there_is_no_such_photo"):
        server.run(mini)
