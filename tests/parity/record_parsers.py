"""Run the public face parsers on seeded weights and write down what comes out: data/bisenet.json, data/parsenet.json.

    git clone https://github.com/zllrunning/face-parsing.PyTorch ZLL
    git clone https://github.com/xinntao/facexlib FACEXLIB
    git clone https://github.com/csxmli2016/w-plus-adapter WPLUS
    python -m tests.parity.record_parsers ZLL FACEXLIB WPLUS

The clones stay where they are; nothing of them enters this project. Needed only to make the records again.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.parity.seeded import normal, sample, weights

DATA = Path(__file__).parent / "data"
SIZES = {"bisenet": (2, 3, 512, 512), "parsenet": (1, 3, 128, 128)}


def record(networks: dict[str, nn.Module], name: str) -> dict[str, Any]:
    """The first output of each of the public networks, which should all be the same, and their keys."""
    picture = normal("image", SIZES[name]).clamp(-2, 2)
    record: dict[str, Any] = {}
    for source, network in networks.items():
        network.load_state_dict(weights(network.state_dict()))
        network.eval()
        with torch.no_grad():
            logits = network(picture)[0]
        found = {
            "keys": len(network.state_dict()),
            "shape": list(logits.shape),
            "sample": [float(f"{value:.9g}") for value in sample(logits)],
            "classes": logits.argmax(dim=1).flatten().bincount(minlength=19).tolist(),
        }
        record.setdefault("reference", []).append(source)
        if any(record.get(key, value) != value for key, value in found.items() if key != "sample"):
            raise SystemExit(f"{source} differs from {record['reference'][0]}")
        record = found | record
    return record | {
        "command": "python -m tests.parity.record_parsers ZLL FACEXLIB WPLUS",
        "input": f"seeded.py: weights(state dict), normal('image', {SIZES[name]}) within -2 and 2",
        "meaning": "sample: the values of the logits that seeded.sample picks; classes: pixels of each class",
        "torch": torch.__version__,
    }


def _load(folder: Path, *names: str) -> ModuleType:
    """The last of some modules that import each other by these bare names from this folder."""
    for name in names:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(names[-1])
    finally:
        sys.path.pop(0)


def _alone(path: Path, package: str) -> ModuleType:
    """One module of a package, without the package's __init__ and what that needs."""
    name = f"{package}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _source(clone: Path, what: str, where: str) -> str:
    commit = subprocess.run(["git", "-C", clone, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"{where} at {commit.stdout.strip()}, {what}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zll", type=Path)
    parser.add_argument("facexlib", type=Path)
    parser.add_argument("wplus", type=Path)
    clones = parser.parse_args()

    zll = _load(clones.zll, "resnet", "model")
    sys.modules["resnet"].Resnet18.init_weight = lambda self: None  # it would download ImageNet's weights
    parsing = clones.facexlib / "facexlib" / "parsing"
    sys.modules["facexlib_parsing"] = ModuleType("facexlib_parsing")
    sys.modules["facexlib_parsing"].__path__ = [str(parsing)]
    _alone(parsing / "resnet.py", "facexlib_parsing")
    bisenets = {
        _source(clones.zll, "model.py BiSeNet", "github.com/zllrunning/face-parsing.PyTorch"): zll.BiSeNet(19),
        _source(clones.facexlib, "facexlib/parsing/bisenet.py BiSeNet", "github.com/xinntao/facexlib"): _alone(
            parsing / "bisenet.py", "facexlib_parsing"
        ).BiSeNet(num_class=19),
    }
    parsenets = {
        _source(clones.wplus, "script/models/parsenet.py ParseNet", "github.com/csxmli2016/w-plus-adapter"): _alone(
            clones.wplus / "script" / "models" / "parsenet.py", "wplus_models"
        ).ParseNet(512, 512, 32, 64, 19, norm_type="bn", relu_type="LeakyReLU", ch_range=[32, 256]),
        _source(clones.facexlib, "facexlib/parsing/parsenet.py ParseNet", "github.com/xinntao/facexlib"): _alone(
            parsing / "parsenet.py", "facexlib_parsing"
        ).ParseNet(in_size=512, out_size=512, parsing_ch=19),
    }
    for name, networks in {"bisenet": bisenets, "parsenet": parsenets}.items():
        (DATA / f"{name}.json").write_text(json.dumps(record(networks, name), indent=1) + "\n")
        print(DATA / f"{name}.json")
