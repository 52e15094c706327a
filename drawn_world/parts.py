"""Networks of the recipe that have been trained for some time, kept beside the code.

A run of the recipe starts from them, so that its hours can be spread over several machines and days. The finished
bundle replaces them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from pidiff_core.files.container import read_container, write_container
from pidiff_core.files.weights import load_strict

from .bundle import stored

PARTS = Path(__file__).parent / "parts"
_KIND = "mini-part"


def version_of(module: nn.Module) -> str:
    """Eight digits that change with a network's weights: for the names of files that were made with it."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def keep_part(name: str, module: nn.Module, *, notes: dict[str, str], folder: Path = PARTS) -> None:
    """Write a network's weights in fp16. notes: facts about the training, for people."""
    path = folder / f"{name}.safetensors"
    write_container(path, stored(module.state_dict()), kind=_KIND, config={"notes": notes})


def notes_of(folder: Path | None) -> dict[str, str]:
    """The facts about the training of each part, as JSON."""
    if folder is None:
        return {}
    return {
        path.stem: json.dumps(read_container(path, kind=_KIND)[1]["notes"])
        for path in sorted(folder.glob("*.safetensors"))
    }


def take_part(name: str, module: nn.Module, *, folder: Path | None) -> bool:
    """Fill a network with what `keep_part` wrote; whether there was something."""
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is None or not path.exists():
        return False
    tensors, _ = read_container(path, kind=_KIND)
    load_strict(module, tensors, name=f"{name}, kept in {path}", dtype=torch.float32)
    return True
