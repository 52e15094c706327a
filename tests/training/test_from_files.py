"""A user's whole way on a small scale: photo files, the four commands, the exported file in a real ComfyUI."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch
from PIL import Image

from pidiff_core.training.cli import main
from tests.training.data.rendered_people import draw_people

PEOPLE = 24
BATCH = 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder in which prepare, train and export have run."""
    folder = tmp_path_factory.mktemp("from_files")
    draw_people(folder / "photos", people=PEOPLE, each=2, seed=77)
    common = [
        "--preset",
        "mini",
        "--prepare.out",
        str(folder / "prepared"),
        "--data.prepared",
        str(folder / "prepared"),
    ]
    common += ["--run.folder", str(folder / "run")]
    stages = [f"--{stage}.{what}" for stage in ("extract", "localise") for what in ("steps=40", f"batch_size={BATCH}")]
    assert main(["prepare", *common, "--prepare.photos", str(folder / "photos"), "--prepare.people", "subfolders"]) == 0
    samples = ["--samples.count", "1", "--samples.steps", "2"]
    assert main(["train", *common, *stages, "--run.validate_every", "20", *samples]) == 0
    assert main(["export", *common, "--export.out", str(folder / "mine.safetensors"), "--export.licence", "CC0"]) == 0
    return folder


def curve(folder, stage):
    """The rows of a stage's curve that have a validation loss."""
    (path,) = (folder / "run").rglob(f"{stage}/validation.csv")
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_validation_loss_falls_in_both_stages(exported):
    for stage in ("extract", "localise"):
        losses = curve(exported, stage)
        assert losses[-1] < losses[0]
        with Image.open(exported / "run" / stage / "samples" / "0000040.png") as grid:
            assert grid.size == (4 * 128, 128), "the photo, the base, the identity, its map"


@pytest.mark.slow
def test_comfyui_draws_with_the_exported_file(exported, comfy, pack):
    import nodes as host_nodes

    folders, load = pack.load("nodes.host.folders"), pack.load("nodes.load")
    folders.register()
    models = comfy.base / "models" / "pidiff"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(exported / "mine.safetensors", models)
    try:
        (loaded,) = load.LoadPIDiff.execute("mine.safetensors", load.NONE, "fp32").result
    finally:
        (models / "mine.safetensors").unlink()
    pack_nodes = pack.load("nodes")
    model, clip, _, mini = pack_nodes.LoadMini.execute().result
    offsets = torch.randn(1, 10, 128, generator=torch.Generator().manual_seed(3))
    codes = pack.load("pidiff_core.wplus.codes").WPlus.from_offsets(
        offsets * mini.adapter.projection.code_std, mini.latent_avg, space=mini.space
    )
    patched = pack_nodes.ApplyIdentityAdapter.execute(model, loaded, codes).result[0]
    text, empty = (host_nodes.CLIPTextEncode().encode(clip, words)[0] for words in ("a photo of a person", ""))
    latent = {"samples": torch.zeros(1, 4, 16, 16)}

    def sample(unet):
        return host_nodes.common_ksampler(unet, 7, 2, 3.0, "euler", "normal", text, empty, latent)[0]["samples"]

    with_identity, plain = sample(patched), sample(model)
    assert torch.isfinite(with_identity).all()
    assert (with_identity - plain).abs().mean() > 1e-3


@pytest.mark.slow
def test_the_card_of_the_exported_file(exported):
    from safetensors import safe_open

    with safe_open(exported / "mine.safetensors", framework="pt") as file:
        text = json.dumps(dict(file.metadata()))
    assert "CC0" in text
    assert "mini" in text
