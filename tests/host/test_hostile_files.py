"""One hostile file of each class in models/pidiff of a real server: a sentence, nothing executed, and the queue lives.

Every kind of file is tested without a server, in tests/files.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import comfy_host
from comfy_client import WorkflowError
from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.files.adapters import save_adapter
from pidiff_core.wplus.codes import WPlusSpace

SECRET = "4f9c-not-for-the-user"
MINI = WPlusSpace("mini-64", 10, 128)
ENCODER = EncoderConfig(
    image_size=32, num_styles=8, width=6, stem_channels=4, depths=(4, 5, 6, 7), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 2, 4), se_reduction=2,
)  # fmt: skip

pytestmark = pytest.mark.parametrize("server", [comfy_host.DEFAULT], indirect=True)


class RunsCode:
    """A pickle of this makes the folder that it names."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def content() -> dict[str, Any]:
    """e4e's layout in small."""
    state = {f"encoder.{key}": value for key, value in E4eEncoder(ENCODER).state_dict().items()}
    return {"state_dict": state, "latent_avg": torch.zeros(8, 6), "opts": {"encoder_type": "Encoder4Editing"}}


def truncated(path: Path) -> None:
    torch.save(content(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def frozen(path: Path) -> None:
    """Tuples in tuples as a dictionary's key: hashing it would take for ever, with the interpreter's lock held."""
    pairs = b"".join(b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86" for number in range(60))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02})" + pairs + b"K\x01s.")
        archive.writestr("archive/version", "3\n")


def swollen(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\xc0\x00\x85R.")
        archive.writestr("archive/version", "3\n")


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside.pt"
    torch.save(content() | {"opts": SECRET}, outside)
    path.symlink_to(outside)


def not_finite(path: Path) -> None:
    changed = content()
    changed["state_dict"]["encoder.latlayer1.bias"].fill_(torch.nan)
    torch.save(changed, path)


def sdxl_adapter(path: Path) -> None:
    """A native adapter for SDXL: context of 2048, widths of 640 and 1280."""
    sites = (SiteSpec("input.4.0", 640, 10), SiteSpec("middle.0.0", 1280, 20))
    config = AdapterConfig(sites=sites, num_styles=10, code_width=128, token_width=2048)
    save_adapter(path, IdentityAdapter(config), space=MINI, latent_avg=torch.zeros(10, 128))


# class: the file's name, how it is made, the input that it is chosen for, the sentence, the node that says it
CLASSES: dict[str, tuple[str, Callable[[Path], None], str, str, str]] = {
    "damaged": ("file.pt", truncated, "encoder", "is damaged or cut short .*Download it again", "LoadPIDiff"),
    "runs code": (
        "file.pt",
        lambda path: torch.save(content() | {"opts": RunsCode(path.parent / "executed")}, path),
        "adapter",
        r"Nothing in it was executed\. Use a file from",
        "LoadPIDiff",
    ),
    "freezes": ("file.pt", frozen, "adapter", "was refused: it holds a dictionary whose keys", "LoadPIDiff"),
    "swells": ("file.pt", swollen, "encoder", r"was refused: it holds objects .*bytearray", "LoadPIDiff"),
    "out of the folder": ("file.pt", link_out, "encoder", "is outside the folder .*not allowed", "LoadPIDiff"),
    "not Unicode": (
        os.fsdecode(b"Stra\xdfe.pt") if os.name != "nt" else "Stra\udcdfe.pt",
        lambda path: torch.save({"half \ud83d": torch.ones(1)}, path),
        "encoder",
        "is not an e4e encoder or StyleGAN2 generator",
        "LoadPIDiff",
    ),
    "wrong when it is used": ("file.pt", not_finite, "encoder", "are not finite: ", "EncodeIdentityW+"),
    "another model's": (
        "file.safetensors",
        sdxl_adapter,
        "adapter",
        r"its tokens are 2048 wide, the model's context is \d+ wide",
        "ApplyIdentityAdapter",
    ),
}


@pytest.fixture
def place(server) -> Iterator[Path]:
    """The server's models/pidiff: afterwards it holds what it held before, and what the test has put there."""
    path = server.base / "models" / "pidiff"
    path.mkdir(exist_ok=True)
    before = set(path.rglob("*"))
    yield path
    left = set(path.rglob("*")) - before
    for entry in left:
        entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    assert len(left) <= 1


@pytest.fixture
def jobs(api_workflow, server, photo) -> dict[str, dict[str, Any]]:
    """The mini workflow with a file as its adapter or its encoder, and as it is."""
    made = {name: api_workflow("pidiff_mini") for name in ("adapter", "encoder", "good")}
    for name, job in made.items():
        job["2"]["inputs"]["image"] = server.upload_image(photo)
        job["3"]["inputs"]["detector"] = "whole image"
        job["8"]["inputs"]["steps"] = 1
        if name != "good":
            job["90"] = {"class_type": "LoadPIDiff", "inputs": {"adapter": "none", "encoder": "none"}}
    for node_id in ("11", "12", "13"):  # ComfyUI draws what does not depend on the refused file
        del made["adapter"][node_id]
    made["adapter"]["4"]["inputs"]["pidiff_model"] = ["90", 0]
    made["encoder"]["3"]["inputs"]["pidiff_model"] = ["90", 0]
    return made


@pytest.mark.parametrize("kind", list(CLASSES))
def test_a_hostile_file_is_a_sentence_and_the_server_lives(server, place, jobs, kind):
    name, make, role, sentence, node = CLASSES[kind]
    make(place / name)
    jobs[role]["90"]["inputs"][role] = name
    process = psutil.Process(server._process.pid)
    before = process.memory_info().rss
    with pytest.raises(WorkflowError, match=sentence) as raised:
        server.run(jobs[role])
    assert raised.value.node_type == node
    # Refused before it ran, or by the node itself; never by an error that was not foreseen.
    assert raised.value.exception_type.rpartition(".")[2] in ("", "PIDiffError")
    assert 40 < len(raised.value.message) < 1500
    assert SECRET not in raised.value.message + server.log()
    assert not (place / "executed").exists()
    assert process.memory_info().rss - before < 400e6
    jobs["good"]["8"]["inputs"]["seed"] = list(CLASSES).index(kind)  # or it is cached
    assert server.run(jobs["good"]).images("10")
