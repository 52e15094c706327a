"""Run W+ Adapter's own code on the inputs of `cases.py` and write down what comes out: the numbers in data/*.json.

    git clone https://github.com/csxmli2016/w-plus-adapter CLONE
    python -m tests.parity.record wplus_adapter CLONE
    python -m tests.parity.record alignment CLONE

The clone stays where it is; nothing of it enters this project. Needed only to make the records again: the tests read
the numbers. Runs in the development environment (diffusers, transformers, scipy).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity import cases
from tests.parity.seeded import sample

DATA = Path(__file__).parent / "data"
PLACES = 64  # values kept of each output
CROP = 512  # the side of the published crop, px
_MARGIN = 8  # crop px


def record_wplus_adapter(clone: Path) -> dict[str, Any]:
    """Tokens, and at each of the 16 sites the branch alone and the whole layer, both halves of guidance."""
    import diffusers

    sys.path.insert(0, str(clone))
    reference = importlib.import_module("w_plus_adapter.w_plus_adapter")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=cases.CONTEXT, attention_head_dim=cases.HEADS)
    layers = {name: unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors}
    for number in cases.WIDTHS:
        list(layers.values())[number].load_state_dict(cases.text_attention(number), assign=True)

    # Their loader, step by step, because it makes everything fp16: the same steps in fp32.
    adapter = reference.WPlusAdapter.__new__(reference.WPlusAdapter)
    adapter.device, adapter.num_tokens, adapter.pipe = "cpu", 4, SimpleNamespace(unet=unet)
    adapter.set_wplus_adapter()
    for processor in unet.attn_processors.values():
        processor.float()
    adapter.w_proj_model = adapter.init_proj().float()
    with tempfile.TemporaryDirectory() as folder:
        adapter.wplus_ckpt = str(Path(folder) / "wplus_adapter.bin")
        torch.save(cases.wplus_adapter_file(), adapter.wplus_ckpt)
        adapter.load_wplus_adapter()

    with torch.no_grad():
        tokens, zero_tokens = (part.clone() for part in adapter.get_w_embeds(cases.wplus_codes()))
        sites = {}
        for number, (name, layer) in enumerate(layers.items()):
            if number in cases.WIDTHS:
                outputs = {"cond": tokens, "uncond": zero_tokens}
                sites[str(number)] = {"processor": name} | {
                    f"{half} {what}": numbers(sample(value, count=PLACES))
                    for half, given in outputs.items()
                    for what, value in _site(layer, number, given).items()
                }
    return {
        "reference": f"{_source(clone)}, w_plus_adapter/w_plus_adapter.py WPlusAdapter (set_wplus_adapter, "
        "load_wplus_adapter, get_w_embeds), WProjModel, attention_processor.py WPlusAttnProcessor2_0; fp32 on the CPU "
        f"(their .to(float16) undone before the weights are loaded), diffusers {diffusers.__version__}'s "
        f"UNet2DConditionModel and Attention, torch {torch.__version__}",
        "command": "python -m tests.parity.record wplus_adapter CLONE",
        "input": "cases.py: wplus_adapter_file(), wplus_codes(), text_attention(number), site_inputs(number)",
        "meaning": "branch: the layer at scale 1 minus scale 0, to_out left out; layer: at scale 0.7, with to_out; "
        f"each the {PLACES} values that seeded.sample picks",
        "tokens": numbers(sample(tokens)),
        "zero tokens": numbers(sample(zero_tokens)),
        "sites": sites,
    }


def _site(layer: Any, number: int, tokens: Tensor) -> dict[str, Tensor]:
    hidden, text = cases.site_inputs(number)
    context = torch.cat([text, tokens], dim=1)

    def run(scale: float) -> Tensor:
        layer.processor.scale = scale
        return layer(hidden, encoder_hidden_states=context)

    whole, to_out = run(cases.SCALE), layer.to_out
    layer.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])
    branch = run(1.0) - run(0.0)
    layer.to_out = to_out
    return {"branch": branch, "layer": whole}


def record_alignment(clone: Path) -> dict[str, Any]:
    """Where in the picture their crop takes its pixels from.

    Their function is given pictures whose values are their own coordinates: its output says for each pixel of the crop
    where it came from, through everything that the function does (reduction, cutting, transform).
    """
    import PIL
    import skimage
    from PIL import Image

    reference = _load(clone / "script" / "utils.py")
    Image.ANTIALIAS = Image.Resampling.LANCZOS  # the name before Pillow 10
    faces = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, face in cases.FACES.items():
            width, height = face.size
            landmarks = face.landmarks(name).long().numpy()
            y, x = np.mgrid[:height, :width].astype(np.float32)
            read = []
            for values in (x, y, np.ones_like(x)):
                path = Path(folder) / "values.tiff"
                Image.fromarray(values).save(path)
                crop, length = reference.align_face(path, landmarks)
                read.append(np.asarray(crop, dtype=np.float64))
            faces[name] = _mapping(*read) | {"length": float(length)}
        path = Path(folder) / "astronaut.png"
        Image.fromarray(skimage.data.astronaut()).save(path)
        crop, _ = reference.align_face(path, cases.FACES["astronaut"].landmarks("astronaut").long().numpy())
    return {
        "reference": f"{_source(clone)}, script/utils.py, align_face(path, landmarks), {CROP} px, Pillow "
        f"{PIL.__version__} (Image.ANTIALIAS set to its newer name LANCZOS)",
        "command": "python -m tests.parity.record alignment CLONE",
        "input": "cases.py: FACES, 68 landmarks each, in pictures whose values are their own x, y and 1",
        "meaning": "crop_to_picture: affine map fitted to all crop pixels inside the picture, (x, y, 1) in the crop -> "
        "(x, y) in the picture, whole numbers are centres of pixels; fit_error_px: its largest error in picture px; "
        "read: crop x, y, picture x, y as read, unfitted; length: what the function returns beside the crop",
        "faces": faces,
        "astronaut": {
            "meaning": "the crop of scikit-image's astronaut (NASA, public domain): values in 0..255 of the (1, 3, "
            f"{CROP}, {CROP}) picture at the places that seeded.sample picks",
            "sample": numbers(sample(torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None])),
        },
    }


def _mapping(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    """The affine map behind three crops: of the picture's x, of its y, and of ones."""
    from scipy import ndimage

    # Where the picture or the crop ends, the resampling filters mix in what is not a coordinate.
    rows, columns = np.nonzero(ndimage.binary_erosion(inside > 0.9999, np.ones((2 * _MARGIN + 1,) * 2)))
    design = np.stack([columns, rows, np.ones_like(rows)], axis=1).astype(np.float64)
    target = np.stack([x[rows, columns], y[rows, columns]], axis=1)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    grid = [(column, row) for row in (10, 133, 256, 379, 501) for column in (10, 133, 256, 379, 501)]
    readable = set(zip(columns.tolist(), rows.tolist()))
    return {
        "crop_to_picture": [numbers(row) for row in solution.T.tolist()],
        "fit_error_px": float(f"{np.abs(design @ solution - target).max():.3g}"),
        "read": [
            [column, row, *numbers([x[row, column], y[row, column]])]
            for column, row in grid
            if (column, row) in readable
        ],
    }


def numbers(values: list[float]) -> list[float]:
    """Nine digits: all that a float32 has."""
    return [float(f"{value:.9g}") for value in values]


def _source(clone: Path) -> str:
    commit = subprocess.run(["git", "-C", clone, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"github.com/csxmli2016/w-plus-adapter at {commit.stdout.strip()}"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records = {"wplus_adapter": record_wplus_adapter, "alignment": record_alignment}
    parser.add_argument("record", choices=records)
    parser.add_argument("clone", type=Path, help="a clone of W+ Adapter's repository")
    chosen = parser.parse_args()
    target_file = DATA / f"{chosen.record}.json"
    target_file.write_text(json.dumps(records[chosen.record](chosen.clone), indent=1) + "\n")
    print(target_file)
