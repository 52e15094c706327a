"""The shipped workflow on servers that are short of memory: the picture is the same.

ComfyUI's own `--lowvram`, `--novram` and `--cpu` exclude each other, and on a CPU the first two mean nothing: its
memory is never counted as scarce. Where there is a GPU, the options themselves are tested. Elsewhere a server is
started with `--cpu` and a custom node beside ours that makes ComfyUI count its CPU as a device, with the state that the
option would have set and little free memory: from there on it is ComfyUI's own code that leaves weights outside, and
brings them in layer by layer while sampling.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import comfy_host

ON_GPU = torch.cuda.is_available()
MB = 1024 * 1024
# With all memory reserved, --lowvram does something on a large GPU too.
OPTIONS = {"normal": (), "lowvram": ("--lowvram", "--reserve-vram", "100000"), "novram": ("--novram",), "cpu": ()}
LITTLE_MEMORY = """
import comfy.model_management as management

NODE_CLASS_MAPPINGS = {{}}
management.vram_state = management.VRAMState.{state}
management.is_device_cpu = lambda device: False
free = management.minimum_inference_memory() + {room}
management.get_free_memory = lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free
"""
STATES = {"lowvram": ("LOW_VRAM", 8 * MB), "novram": ("NO_VRAM", 0)}  # and how many bytes of weights may be inside


@pytest.fixture(scope="module")
def draw(api_workflow, photo: Path, tmp_path_factory) -> Callable[[str], tuple[np.ndarray, str]]:
    """By mode: the picture (H, W, 3) of a server of its own, and that server's log."""
    workflow = api_workflow("pidiff_mini")
    nodes = {node["class_type"]: node["inputs"] for node in workflow.values()}
    nodes["KSampler"]["steps"] = 4
    (saver,) = (number for number, node in workflow.items() if node["class_type"] == "SaveImage")

    def run(mode: str) -> tuple[np.ndarray, str]:
        base = tmp_path_factory.mktemp(mode)
        arguments = OPTIONS[mode] if ON_GPU else ()
        if mode in STATES and not ON_GPU:
            state, room = STATES[mode]
            (base / "custom_nodes").mkdir()
            (base / "custom_nodes" / "little_memory.py").write_text(LITTLE_MEMORY.format(state=state, room=room))
            arguments = ("--whitelist-custom-nodes", comfy_host.PACK_NAME, "little_memory.py")
        host = comfy_host.prepare()
        with comfy_host.ComfyServer(host, base=base, cpu=not ON_GPU or mode == "cpu", arguments=arguments) as server:
            nodes["LoadImage"]["image"] = server.upload_image(photo)
            data = server.fetch_image(server.run(workflow).images(saver)[0])
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), server.log()

    return run


@pytest.fixture(scope="module")
def normal(draw) -> np.ndarray:
    picture, log = draw("normal")
    assert "loaded partially" not in log
    return picture


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("mode", STATES)
def test_a_server_short_of_memory_draws_the_same_picture(draw, normal, mode):
    """Bit for bit on a CPU: weights are moved, nothing is computed otherwise. On a GPU within one step of a colour."""
    picture, log = draw(mode)
    partly = re.findall(r"loaded partially; \S+ MB usable, (\S+) MB loaded, (\S+) MB offloaded", log)
    assert partly, log[-3000:]
    assert max(float(outside) for _, outside in partly) > 1
    if not ON_GPU:
        assert any(float(inside) > 0 for inside, _ in partly) == (mode == "lowvram")
    assert picture.std() > 5
    assert np.abs(picture.astype(int) - normal).max() <= (1 if ON_GPU else 0)


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.skipif(not ON_GPU, reason="without a GPU the normal mode is --cpu")
def test_the_cpu_draws_the_picture_of_the_gpu(draw, normal):
    """Another device rounds otherwise: nearly the same picture."""
    picture, _ = draw("cpu")
    assert np.abs(picture.astype(float) - normal).mean() < 5
