"""What goes wrong reaches the user as a sentence in the queue's error, and the next job runs."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import comfy_host
from comfy_client import WorkflowError

pytestmark = pytest.mark.parametrize("server", [comfy_host.DEFAULT], indirect=True)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def mini(api_workflow):
    workflow = api_workflow("pidiff_mini")
    workflow["8"]["inputs"]["steps"] = 1
    return workflow


def broken_photos(photo) -> dict[str, bytes]:
    gradient = np.linspace(0, 255, 256, dtype=np.uint8)
    return {
        "no_face.png": png(np.stack(np.broadcast_arrays(gradient[:, None], gradient[None, :], gradient[:1]), axis=-1)),
        "one_pixel.png": png(np.full((1, 1, 3), 128, np.uint8)),
        "truncated.png": photo.read_bytes()[:20_000],
    }


@pytest.mark.parametrize("name", ["no_face.png", "one_pixel.png", "truncated.png"])
def test_a_photo_without_a_usable_face(server, mini, photo, name):
    mini["2"]["inputs"]["image"] = server.upload_image(broken_photos(photo)[name], name=name)
    with pytest.raises(WorkflowError, match="face") as raised:
        server.run(mini)
    assert raised.value.node_type == "EncodeIdentityW+"
    assert raised.value.exception_type.endswith("PIDiffError")
    assert len(raised.value.message) > 60


def test_a_missing_photo(server, mini):
    mini["2"]["inputs"]["image"] = "there_is_no_such_photo.png"
    with pytest.raises(WorkflowError, match="there_is_no_such_photo"):
        server.run(mini)


def loader(**files) -> dict:
    """The smallest workflow that opens PIDiff files."""
    return {
        "1": {"class_type": "LoadPIDiff", "inputs": {"adapter": "none", "encoder": "none"} | files},
        "3": {"class_type": "LoadImage", "inputs": {"image": "astronaut.png"}},
        "4": {
            "class_type": "EncodeIdentityW+",
            "inputs": {
                "pidiff_model": ["1", 0], "image": ["3", 0], "detector": "whole image", "face_index": 0,
                "on_no_face": "error",
            },
        },
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}},
    }  # fmt: skip


def wrong_files() -> dict[str, bytes]:
    return {
        "some_lora.safetensors": save({"lora_unet_down.weight": torch.zeros(4, 4)}),
        "cut_off.safetensors": save({"projection.weight": torch.zeros(64, 64)})[:300],
        "web_page.safetensors": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "nothing.pt": b"",
    }


@pytest.mark.parametrize("name", sorted(wrong_files()))
@pytest.mark.parametrize("role", ["adapter", "encoder"])
def test_a_wrong_checkpoint(server, photo, name, role):
    server.upload_image(photo)
    folder = server.base / "models" / "pidiff"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(wrong_files()[name])
    try:
        with pytest.raises(WorkflowError, match=re.escape(name)) as raised:
            server.run(loader(**{role: name}))
    finally:
        (folder / name).unlink()
    assert raised.value.node_type == "LoadPIDiff"
    assert raised.value.exception_type.endswith("PIDiffError")


@pytest.mark.parametrize("role", ["adapter", "encoder"])
def test_a_missing_checkpoint_names_the_folders_searched(server, photo, role):
    server.upload_image(photo)
    with pytest.raises(WorkflowError, match=r"gone\.safetensors") as raised:
        server.run(loader(**{role: "gone.safetensors"}))
    assert str(server.base / "models" / "pidiff") in raised.value.message
    assert raised.value.node_type == "LoadPIDiff"


def test_nothing_to_load(server, photo):
    server.upload_image(photo)
    with pytest.raises(WorkflowError, match="choose an adapter"):
        server.run(loader())


def test_after_all_of_these_the_same_server_still_draws(server, mini, photo):
    mini["2"]["inputs"]["image"] = server.upload_image(photo)
    assert server.run(mini).images("10")
