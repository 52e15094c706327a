"""The mini bundle: the recipe runs from nothing to a bundle that loads, and the shipped bundle is what it should be."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from drawn_world.bundle import load_judge
from drawn_world.likeness import Jury, ceiling
from drawn_world.parts import PARTS
from pidiff_core.mini import bundle
from pidiff_core.pipeline import decode, encode

STAGES = ("autoencoder", "base", "generator", "encoder", "detector", "judge", "extract", "localise")


@pytest.mark.slow
def test_the_recipe_runs_resumes_and_writes_a_bundle(root, tmp_path):
    pytest.importorskip("accelerate", reason="training is the optional extra `train`")
    pytest.importorskip("diffusers", reason="training is the optional extra `train`")
    from drawn_world.recipe import Length, run

    shipped = {path: path.stat().st_mtime_ns for path in bundle.WEIGHTS.iterdir()}
    command = [sys.executable, str(root / "scripts" / "train_mini.py"), "--out", str(tmp_path), "--people", "80"]
    trial = subprocess.run(  # one step a stage, by the command that a user types
        [*command, "--scale", "0.00001", "--no-compile"], capture_output=True, text=True
    )
    assert trial.returncode == 0, trial.stdout[-3000:] + trial.stderr[-3000:]
    assert shipped == {path: path.stat().st_mtime_ns for path in bundle.WEIGHTS.iterdir()}  # a trial leaves it alone
    assert json.loads(bundle.load_base(tmp_path / "bundle")[1]["notes"]["steps"]) == dict.fromkeys(STAGES, 1)

    said: list[str] = []
    run(  # resumes every stage
        tmp_path,
        tmp_path / "longer",
        lengths=dict.fromkeys(STAGES, Length(steps=2, batch=32)),
        notes={"why": "a test"},
        people=80,
        compiled=False,
        parts=PARTS,
        say=said.append,
    )
    assert sum("stage" in sentence for sentence in said) == len(STAGES)
    for stage in STAGES:
        assert torch.load(tmp_path / stage / "state.pt", weights_only=True)["step"] == 2
        assert len((tmp_path / stage / "curve.csv").read_text().splitlines()) == 3  # a header and both runs' last steps
    model = bundle.load_identity(tmp_path / "longer")
    codes = encode(model, torch.zeros(1, 3, 64, 64))
    assert codes.codes.shape == (1, 10, 128)
    assert decode(model, codes).shape == (1, 64, 64, 3)
    notes = bundle.load_base(tmp_path / "longer")[1]["notes"]
    assert notes["why"] == "a test"
    assert "base" in json.loads(notes["parts"])
    load_judge(tmp_path / "longer")


def test_a_stage_gives_the_same_weights_every_time(tmp_path):
    pytest.importorskip("accelerate", reason="training is the optional extra `train`")
    pytest.importorskip("diffusers", reason="training is the optional extra `train`")
    from drawn_world.data import World, rendered
    from drawn_world.train import detector_stage

    pictures = rendered(World(seed=1, people=4, scenes=2), tmp_path)
    first, second = (
        detector_stage(pictures, pictures, tmp_path / folder, steps=1, batch_size=8).state_dict() for folder in "ab"
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_shipped_bundle_is_small_and_loads():
    files = list(bundle.WEIGHTS.glob("*.safetensors"))
    assert {path.name for path in files} == {bundle.BASE, bundle.IDENTITY}
    assert sum(path.stat().st_size for path in files) <= 25e6
    model = bundle.load_identity()
    assert model.adapter is not None
    assert model.adapter.config.num_styles == model.space.num_styles == 10
    assert {"smile", "beard", "glasses"} <= set(model.directions)


def test_the_jury_knows_a_render_from_anothers():
    from drawn_world.drawn_person import DrawnPerson
    from drawn_world.render import render
    from drawn_world.scene import Scene

    rng = np.random.default_rng(7)
    people = [DrawnPerson.sample(rng) for _ in range(8)]

    def pictures(count: int) -> torch.Tensor:
        rows = [[render(who, Scene.sample(rng, medium="photo")).image for _ in range(count)] for who in people]
        tensor = torch.tensor(np.array(rows)).float() / 127.5 - 1
        return tensor.movedim(-1, 2)

    jury = Jury(load_judge(), bundle.load_identity().detector)
    gallery = jury.gallery(pictures(3))
    fresh = pictures(1)[:, 0]
    judged, _ = jury.recognised(fresh, gallery)
    assert judged.float().mean() >= 0.75
    assert jury.likeness(fresh, gallery).mean() > jury.likeness(fresh.roll(1, 0), gallery).mean() + 0.2
    assert ceiling(gallery) > 0.4
