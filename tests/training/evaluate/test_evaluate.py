"""Adapters side by side on the embedded base: an adapter that does nothing must measure exactly as the base alone."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.errors import PIDiffError
from pidiff_core.files.adapters import save_adapter
from pidiff_core.mini.bundle import load_identity
from pidiff_core.training.bases.load import load_base
from pidiff_core.training.data.command import run_prepare
from pidiff_core.training.data.options import PrepareOptions
from pidiff_core.training.evaluate.command import run_evaluate
from pidiff_core.training.evaluate.options import EvaluateOptions
from pidiff_core.wplus.codes import WPlusSpace
from tests.training.data.rendered_people import draw_people


@pytest.fixture(scope="module")
def base(device):
    return load_base("mini", device=device)


@pytest.fixture(scope="module")
def model():
    return load_identity()


@pytest.fixture(scope="module")
def prepared(base, device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    draw_people(folder / "photos", people=2, each=3, seed=2_000_000)
    options = PrepareOptions(
        photos=str(folder / "photos"), out=str(folder / "out"), detector="model", people="subfolders", sheet_photos=0
    )
    run_prepare(options, base=base, device=device)
    return folder / "out"


@pytest.fixture(scope="module")
def nothing(model, tmp_path_factory):
    """An untrained adapter: its values are zero."""
    path = tmp_path_factory.mktemp("adapter") / "nothing.safetensors"
    save_adapter(path, IdentityAdapter(model.adapter.config), space=model.space, latent_avg=model.latent_avg)
    return path


@pytest.fixture(scope="module")
def embedded(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "embedded.safetensors"
    save_adapter(path, model.adapter, space=model.space, latent_avg=model.latent_avg)
    return path


@pytest.fixture
def options(prepared, tmp_path):
    return {
        "data": str(prepared), "out": str(tmp_path / "evaluation"), "people": 2, "steps": 2, "seeds": 2, "cfg": 3.0,
        "prompts": ("a photo of a person in the forest",), "detector": "model",
    }  # fmt: skip


@pytest.mark.slow
def test_two_adapters_side_by_side(options, base, nothing, embedded, capsys, tmp_path):
    settings = EvaluateOptions(adapters=(str(nothing), str(embedded)), directions="beard", **options)
    evaluation = run_evaluate(settings, base=base)
    assert torch.equal(evaluation.pictures["nothing"], evaluation.pictures[""])
    assert not torch.equal(evaluation.pictures["embedded"], evaluation.pictures[""])
    alone, same, other = (evaluation.measures[name] for name in ("", "nothing", "embedded"))
    for measure in ("retrieval", "faces_found", "diversity"):
        assert same[measure] == alone[measure]
    drifts = [numbers["background_drift"] for numbers in (same, other)]
    assert drifts[0] == 0.0 or math.isnan(drifts[0]), "NaN: no face in any picture of two steps"
    assert other["localisation_iou"] > same["localisation_iou"]
    assert math.isnan(same["text_alignment"])
    printed = capsys.readouterr().out
    assert "localisation_iou" in printed
    assert "text_alignment: not measured" in printed
    written = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert written["measures"]["embedded"]["localisation_iou"] == round(other["localisation_iou"], 5)
    assert written["measures"]["nothing"]["text_alignment"] is None
    sheet = Image.open(tmp_path / "evaluation/sheet.jpg")
    assert sheet.size == (4 * 128, 2 * 128), "photo, base, two adapters; two people"


def test_what_cannot_be_evaluated(options, base, nothing, model, prepared, tmp_path):
    def run(**changes):
        run_evaluate(EvaluateOptions(**(options | {"adapters": (str(nothing),)} | changes)), base=base)

    with pytest.raises(PIDiffError, match="No adapter to evaluate"):
        run(adapters=())
    with pytest.raises(PIDiffError, match="have the same name"):
        run(adapters=(str(nothing), str(nothing)))
    with pytest.raises(PIDiffError, match="needs at least two people"):
        run(people=1)
    with pytest.raises(PIDiffError, match=r"one of the embedded model's .*beard.*but it is 'sneeze'"):
        run(directions="sneeze")
    with pytest.raises(PIDiffError, match="holds no prepared photos"):
        run(data=str(tmp_path))
    other = WPlusSpace("other-64", model.space.num_styles, model.space.width)
    save_adapter(tmp_path / "other.safetensors", model.adapter, space=other, latent_avg=model.latent_avg)
    with pytest.raises(PIDiffError, match="reads codes of other-64"):
        run(adapters=(str(tmp_path / "other.safetensors"),))


def test_options_out_of_range():
    with pytest.raises(PIDiffError, match=r"evaluate\.seeds is 0"):
        EvaluateOptions(seeds=0)
    with pytest.raises(PIDiffError, match=r"evaluate\.prompts is empty"):
        EvaluateOptions(prompts=())
