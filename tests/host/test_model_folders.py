"""Where LoadPIDiff finds files, and how ComfyUI's model management keeps and frees them, on a real server."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import comfy_host
from comfy_client import WorkflowError
from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator

ENCODER = EncoderConfig(
    image_size=32, num_styles=8, width=512, stem_channels=4, depths=(4, 5, 6, 7), units=(1, 1, 1, 1),
    head_channels=512, heads=(2, 2, 4), se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(size=32, width=512, z_dim=6, mapping_layers=1, channels=(4, 4, 4, 4))
LINK = "https://github.com/csxmli2016/w-plus-adapter/releases"

pytestmark = [pytest.mark.host, pytest.mark.slow]


def write_encoder(path: Path) -> Path:
    """The published layout, 160 MB."""
    torch.manual_seed(0)
    state = {f"encoder.{key}": value for key, value in E4eEncoder(ENCODER).state_dict().items()}
    state |= {f"decoder.{key}": value for key, value in Generator(GENERATOR).state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "latent_avg": torch.randn(8, 512), "opts": {}}, path)
    return path


@pytest.fixture(scope="module", params=comfy_host.TESTED)
def elsewhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[comfy_host.ComfyServer, Path]]:
    """A server whose extra_model_paths.yaml names two more folders, one of which is not there; and the other one."""
    base = tmp_path_factory.mktemp("disk")
    folder = base / "shared models" / "faces"
    write_encoder(folder / "people" / "my_encoder.pt")
    config = base / "paths.yaml"
    config.write_text(
        f"my_disk:\n    base_path: {base}\n    pidiff: |\n        shared models/faces\n        not there\n"
    )
    host = comfy_host.prepare(request.param)
    # Otherwise glibc keeps what is freed for later, and resident memory says nothing about what is in use.
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        with comfy_host.ComfyServer(host, arguments=("--extra-model-paths-config", str(config))) as server:
            yield server, folder
    (folder / "people" / "my_encoder.pt").unlink()  # pytest keeps the folders of three runs


def portrait(
    files: dict[str, str], photo_name: str, *, second: dict[str, str] | None = None, background: str = "white"
) -> dict:
    """Photo to codes to portrait; the second loader, where there is one, opens what paints the portrait.

    In fp32: "auto" takes bf16 on processors that have it, which uses half the memory.
    """
    loader = {"adapter": "none", "encoder": "none", "precision": "fp32"}
    job = {
        "1": {"class_type": "LoadPIDiff", "inputs": loader | files},
        "2": {"class_type": "LoadImage", "inputs": {"image": photo_name}},
        "3": {
            "class_type": "EncodeIdentityW+",
            "inputs": {
                "pidiff_model": ["1", 0], "image": ["2", 0], "detector": "whole image", "face_index": 0,
                "on_no_face": "error", "background": background,
            },
        },
        "4": {"class_type": "PIDiffPreviewCodes", "inputs": {"pidiff_model": ["1", 0], "wplus": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }  # fmt: skip
    if second is not None:
        job["6"] = {"class_type": "LoadPIDiff", "inputs": loader | second}
        job["4"]["inputs"]["pidiff_model"] = ["6", 0]
    return job


def test_files_of_extra_model_paths_are_listed_and_loaded(elsewhere, photo):
    server, _ = elsewhere
    name = os.path.join("people", "my_encoder.pt")  # noqa: PTH118 (as ComfyUI writes it on this system)
    required = server.object_info("LoadPIDiff")["LoadPIDiff"]["input"]["required"]
    offered = required["encoder"][0] if isinstance(required["encoder"][0], list) else required["encoder"][1]["options"]
    assert name in offered
    result = server.run(portrait({"encoder": name}, server.upload_image(photo)))
    assert result.images("5")


@pytest.mark.parametrize("role", ["adapter", "encoder"])
def test_a_missing_file_names_every_folder_searched_and_the_link(elsewhere, photo, role):
    server, folder = elsewhere
    with pytest.raises(WorkflowError, match=rf"The {role} 'gone\.bin' was not found") as raised:
        server.run(portrait({role: "gone.bin"}, server.upload_image(photo)))
    searched = [folder, folder.parent.parent / "not there", server.base / "models" / "pidiff"]
    assert all(str(path) in raised.value.message for path in searched)
    assert LINK in raised.value.message


def test_a_link_into_a_named_folder_is_no_way_out(elsewhere, photo):
    server, folder = elsewhere
    link = server.base / "models" / "pidiff" / "link.pt"
    link.symlink_to(folder / "people" / "my_encoder.pt")
    assert server.run(portrait({"encoder": "link.pt"}, server.upload_image(photo))).images("5")


def test_weights_are_in_memory_once_and_go_when_they_are_freed(elsewhere, photo):
    """Memory of the whole server: one set of weights for two loaders, none when everything is freed."""
    server, folder = elsewhere
    file = folder / "people" / "my_encoder.pt"
    files = {"encoder": os.path.join("people", "my_encoder.pt")}  # noqa: PTH118
    name = server.upload_image(photo)
    process = psutil.Process(server._process.pid)

    def used() -> float:
        """Resident memory in sizes of the file."""
        return process.memory_info().rss / file.stat().st_size

    def run(job: dict) -> np.ndarray:
        data = server.fetch_image(server.run(job).images("5")[0])
        return np.asarray(Image.open(io.BytesIO(data)))

    def freed() -> float:
        """What is used once the worker has freed everything, which takes seconds on a busy machine."""
        server.request("/free", b'{"unload_models": true, "free_memory": true}')
        readings = [used()]
        while len(readings) < 30 and not (len(readings) > 4 and max(readings[-4:]) - min(readings[-4:]) < 0.02):
            time.sleep(1)
            readings.append(used())
        return readings[-1]

    empty = freed()
    first = run(portrait(files, name))
    once = used()
    assert once - empty > 0.7
    two_loaders = portrait(files, name, second=files, background="black")
    assert run(two_loaders).shape == first.shape
    assert used() - once < 0.2

    def loads() -> int:
        return server.log().count("Requested to load E4eEncoder")

    requests = loads()
    for background in ("white", "black", "white"):  # a changed background: the codes are computed, not remembered
        server.request("/free", b'{"unload_models": true}')
        time.sleep(1)  # the worker unloads between two jobs: on a busy machine perhaps not before the next one
        again = run(portrait(files, name, background=background))
        if loads() > requests:
            break
    assert loads() > requests
    assert background == "black" or np.array_equal(again, first)

    server.request("/free", b'{"unload_models": true, "free_memory": true}')
    deadline = time.monotonic() + 60  # the worker frees when it is idle
    while used() - empty > 0.3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert used() - empty < 0.3
    assert np.array_equal(run(portrait(files, name)), first)
