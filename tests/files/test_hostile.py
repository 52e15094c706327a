"""Broken and hostile files as adapter and as encoder: each a sentence, nothing executed, nothing leaked."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError
from pidiff_core.files.adapters import save_adapter
from pidiff_core.files.foreign.wplus_adapter import SITES
from pidiff_core.files.loading import load_pidiff
from pidiff_core.wplus.codes import WPlusSpace

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
        for _ in range(40):
            entry.write(bytes(1 << 20))


def tensor_bomb(path: Path, role: Role) -> None:
    """A few bytes that are seen as terabytes, by strides of zero."""
    content = role.content()
    content[role.part][role.key] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, path)


def folder(path: Path, role: Role) -> None:
    path.mkdir()


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
    "encoder": r"should hold encoder\.\* and decoder\.\*, but there is also other|is not an e4e encoder",
}
# kind: how the file is made, and the sentence for each role, or for both
KINDS: dict[str, tuple[Callable[[Path, Role], None], str | dict[str, str]]] = {
    "truncated": (truncated, r"is damaged or cut short .*Download it again"),
    "wrong keys": (changed(rename_keys), NONSENSE),
    "extra keys": (
        changed(lambda state, role: state.update({f"{role.key}.more": torch.ones(1)})),
        {"adapter": r"keys that no W\+ Adapter has: 1\.to_k_wplus\.weight\.more", "encoder": r"left over: .*more"},
    ),
    "wrong shapes": (
        changed(lambda state, role: state.update({role.key: torch.ones(8, 5)})),
        r"wrong shapes: .* \(8, 5\) instead of",
    ),
    "impossible shapes": (
        changed(lambda state, role: state.update({role.key: torch.ones(3, 5, 7)})),
        {"adapter": "The contents of .* are not valid.*3 channels in 8 heads", "encoder": "wrong shapes: "},
    ),
    "NaN": (changed(lambda state, role: state[role.key].fill_(torch.nan)), r"not finite: "),
    "a pickle that runs code": (runs_code, REFUSED),
    "a bare pickle that runs code": (runs_code_bare, REFUSED),
    "a zip bomb": (zip_bomb, r"was refused: it has \d+ bytes that unpack to \d+, as in no PyTorch checkpoint"),
    "a bomb of strides": (tensor_bomb, r"was refused: its \d+ bytes unpack to more than any checkpoint"),
    "a directory": (folder, r"is a folder, not a file"),
    "a web page saved as .pt": (web_page, r"but a web page that was saved under that name\. Download it again"),
    "a native adapter": (sdxl_adapter, {"encoder": "holds an identity adapter, but an encoder or a generator was"}),
    "a W+ Adapter for SDXL": (
        sdxl_wplus_adapter,
        {
            "adapter": r"another model than Stable Diffusion 1\.5: it has 70 sites",
            "encoder": r"Choose it as the adapter",
        },
    ),
    "an empty file": (empty, r"is an empty file\. Download it again"),
}
CASES = [
    (role, kind)
    for kind, (_, sentences) in KINDS.items()
    for role in ROLES
    if isinstance(sentences, str) or role in sentences
]


@pytest.mark.parametrize(("role", "kind"), CASES)
def test_a_bad_file_is_a_sentence(tmp_path, role, kind):
    make, sentences = KINDS[kind]
    path = tmp_path / "models" / "pidiff" / ("file.safetensors" if make is sdxl_adapter else "file.pt")
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    make(path, ROLES[role])
    with pytest.raises(PIDiffError, match=sentences if isinstance(sentences, str) else sentences[role]) as caught:
        load_pidiff(**{"adapter": None, "encoder": None, role: path}).require(role, purpose="here")
    assert 40 < len(str(caught.value)) < 1000
    assert SECRET not in str(caught.value)
    assert not (path.parent / "executed").exists()
