"""Broken and hostile files in models/pidiff: each a sentence, nothing executed or leaked, and the server lives."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from comfy_client import WorkflowError
from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.formats import save_adapter
from pidiff_core.adapter.published import SITES
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.wplus import WPlusSpace

SECRET = "4f9c-not-for-the-user"
MINI = WPlusSpace("mini-64", 10, 128)
ENCODER = EncoderConfig(
    image_size=32, num_styles=8, width=6, stem_channels=4, depths=(4, 5, 6, 7), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 2, 4), se_reduction=2,
)  # fmt: skip


def adapter_content(sites: int = len(SITES), width: int = 24) -> dict[str, Any]:
    """W+ Adapter's layout in small; the width is that of the model's context."""
    projection = {f"proj_{i}.weight": torch.randn(width, size) for i, size in enumerate((2048, 2048, 2048, 3072))}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    shapes = {"to_k": (8, width), "to_v": (8, width), "to_q": (8, 8)}
    branches = {
        f"{number}.{name}_wplus.weight": torch.randn(shape)
        for number in range(1, 2 * sites, 2)
        for name, shape in shapes.items()
    }
    return {"w_proj": projection, "wplus_adapter": branches}


def encoder_content() -> dict[str, Any]:
    """e4e's layout in small."""
    state = {f"encoder.{key}": value for key, value in E4eEncoder(ENCODER).state_dict().items()}
    return {"state_dict": state, "latent_avg": torch.zeros(8, 6), "opts": {"start_from_latent_avg": True}}


class Role(NamedTuple):
    """An input of LoadPIDiff, and a file that would be right for it."""

    name: str
    content: Callable[[], dict[str, Any]]
    part: str  # the state dict in it
    key: str  # one of its weights


ROLES = {
    "adapter": Role("adapter", adapter_content, "wplus_adapter", "1.to_k_wplus.weight"),
    "encoder": Role("encoder", encoder_content, "state_dict", "encoder.latlayer1.bias"),
}


class RunsCode:
    """A pickle of this makes the folder that it names."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def changed(change: Callable[[dict[str, Any], Role], Any]) -> Callable[[Path, Role], None]:
    """A maker of files: a good one's state dict, changed."""

    def make(path: Path, role: Role) -> None:
        content = role.content()
        change(content[role.part], role)
        torch.save(content, path)

    return make


def rename_keys(state: dict[str, Any], role: Role) -> None:
    for key in list(state):
        state[f"other.{key}"] = state.pop(key)


def truncated(path: Path, role: Role) -> None:
    torch.save(role.content(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def runs_code(path: Path, role: Role) -> None:
    torch.save(role.content() | {"opts": RunsCode(path.parent / "executed")}, path)


def runs_code_bare(path: Path, role: Role) -> None:
    path.write_bytes(pickle.dumps(RunsCode(path.parent / "executed"), protocol=2))


def zip_bomb(path: Path, role: Role) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as entry:
        for _ in range(400):
            entry.write(bytes(1 << 20))


def tensor_bomb(path: Path, role: Role) -> None:
    """A few bytes that are seen as terabytes, by strides of zero."""
    content = role.content()
    content[role.part][role.key] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, path)


def folder(path: Path, role: Role) -> None:
    path.mkdir()


def symlink_out(path: Path, role: Role) -> None:
    outside = path.parents[2] / "outside.pt"
    torch.save(role.content() | {"opts": SECRET}, outside)
    path.symlink_to(outside)


def web_page(path: Path, role: Role) -> None:
    path.write_text(f"<!DOCTYPE html><html><title>{SECRET}</title><body>Sign in to download</body></html>")


def sdxl_adapter(path: Path, role: Role) -> None:
    """A native adapter for SDXL: context of 2048, widths of 640 and 1280."""
    sites = (SiteSpec("input.4.0", 640, 10), SiteSpec("middle.0.0", 1280, 20))
    config = AdapterConfig(sites=sites, num_styles=10, code_width=128, token_width=2048)
    save_adapter(path, IdentityAdapter(config), space=MINI, latent_avg=torch.zeros(10, 128))


def sdxl_wplus_adapter(path: Path, role: Role) -> None:
    torch.save(adapter_content(sites=70, width=2048), path)


def empty(path: Path, role: Role) -> None:
    path.touch()


REFUSED = r"Nothing in it was executed\. Use a file from"
NONSENSE = {
    "adapter": r"is an incomplete W\+ Adapter: no key of its branches begins with a number \(other\.1",
    "encoder": r"should hold encoder\.\* and decoder\.\*, but there is also other|is no e4e encoder",
}
# kind: how the file is made, the sentence for each role (or for both), where it comes if not from LoadPIDiff
KINDS: dict[str, tuple[Callable[[Path, Role], None], str | dict[str, str], str]] = {
    "truncated": (truncated, r"is damaged or cut short .*Download it again", ""),
    "wrong keys": (changed(rename_keys), NONSENSE, ""),
    "extra keys": (
        changed(lambda state, role: state.update({f"{role.key}.more": torch.ones(1)})),
        {"adapter": r"keys that no W\+ Adapter has: 1\.to_k_wplus\.weight\.more", "encoder": r"left over: .*more"},
        "",
    ),
    "wrong shapes": (
        changed(lambda state, role: state.update({role.key: torch.ones(8, 5)})),
        r"wrong shapes: .* \(8, 5\) instead of",
        "",
    ),
    "impossible shapes": (
        changed(lambda state, role: state.update({role.key: torch.ones(3, 5, 7)})),
        {"adapter": "does not hold what it should.*3 channels in 8 heads", "encoder": "wrong shapes: "},
        "",
    ),
    "NaN": (
        changed(lambda state, role: state[role.key].fill_(torch.nan)),
        r"not finite: ",
        "encoder at EncodeIdentityW+",
    ),
    "a pickle that runs code": (runs_code, REFUSED, ""),
    "a bare pickle that runs code": (runs_code_bare, REFUSED, ""),
    "a zip bomb": (zip_bomb, r"was refused: its \d+ bytes unpack to \d+, as in no PyTorch checkpoint", ""),
    "a bomb of strides": (tensor_bomb, r"was refused: its \d+ bytes unpack to more than any checkpoint", ""),
    "a directory": (folder, r"is a folder, not a file \(in .*models.pidiff", ""),
    "a symlink out of the folder": (symlink_out, r"leads out of the folder models/pidiff, which is not allowed", ""),
    "a web page saved as .pt": (web_page, r"but a web page that was saved under that name\. Download it again", ""),
    "an SDXL adapter": (
        sdxl_adapter,
        {
            "adapter": r"its tokens are 2048 wide, the model's context is \d+ wide",
            "encoder": r"holds 'adapter', not an encoder or a generator",
        },
        "adapter at ApplyIdentityAdapter",
    ),
    "a W+ Adapter for SDXL": (
        sdxl_wplus_adapter,
        {
            "adapter": r"another model than Stable Diffusion 1\.5: it has 70 sites",
            "encoder": r"Choose it as the adapter",
        },
        "",
    ),
    "an empty file": (empty, r"is an empty file\. Download it again", ""),
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
    assert {entry.stem for entry in left} <= {"file"}


@pytest.fixture
def jobs(api_workflow, server, photo) -> dict[str, dict[str, Any]]:
    """The mini workflow with a file in the place of its adapter or its encoder, and as it is."""
    made = {name: api_workflow("pidiff_mini") for name in ("adapter", "encoder", "good")}
    for name, job in made.items():
        job["2"]["inputs"]["image"] = server.upload_image(photo)
        job["3"]["inputs"]["detector"] = "whole image"
        job["8"]["inputs"]["steps"] = 1
        if name in ROLES:
            job["90"] = {"class_type": "LoadPIDiff", "inputs": {"adapter": "none", "encoder": "none"}}
    for node_id in ("11", "12", "13"):  # ComfyUI draws what does not depend on the refused file
        del made["adapter"][node_id]
    made["adapter"]["4"]["inputs"]["pidiff_model"] = ["90", 0]
    made["encoder"]["3"]["inputs"]["pidiff_model"] = ["90", 0]
    return made


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("role", list(ROLES))
def test_a_bad_file_is_a_sentence_and_the_server_lives(server, place, jobs, role, kind):
    make, sentences, elsewhere = KINDS[kind]
    suffix = ".safetensors" if make is sdxl_adapter else ".pt"
    name = f"file{suffix}"
    torch.manual_seed(0)
    make(place / name, ROLES[role])
    jobs[role]["90"]["inputs"][role] = name
    process = psutil.Process(server._process.pid)
    before = process.memory_info().rss
    with pytest.raises(WorkflowError, match=sentences if isinstance(sentences, str) else sentences[role]) as raised:
        server.run(jobs[role])
    at = elsewhere.removeprefix(f"{role} at ") if elsewhere.startswith(role) else "LoadPIDiff"
    assert raised.value.node_type == at
    # Refused before it ran, or by the node itself; never by an error that nobody has foreseen.
    assert raised.value.exception_type.rpartition(".")[2] in ("", "PIDiffError")
    assert 40 < len(raised.value.message) < 1500
    assert SECRET not in raised.value.message + server.log()
    assert not (place / "executed").exists()
    if "bomb" in kind and sys.platform == "linux":
        assert process.memory_info().rss - before < 200e6
    jobs["good"]["8"]["inputs"]["seed"] = list(KINDS).index(kind) + 100 * list(ROLES).index(role)  # or it is cached
    assert server.run(jobs["good"]).images("10")
