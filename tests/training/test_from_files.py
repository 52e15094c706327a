"""A user's whole way on a small scale: photo files, the four commands, the exported file in a real ComfyUI."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

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


def command(exported, folder, *further: str) -> list[str]:
    """`pidiff train` as another program, with a short stage."""
    settings = {
        "run.folder": folder, "data.prepared": exported / "prepared", "samples.count": 0, "run.checkpoint_every": 4,
        "extract.steps": 0, "localise.steps": 10, "localise.batch_size": BATCH, "run.log_every": 1,
        "run.precision": "fp32",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "pidiff_core.training", "train", "--preset", "mini", *words, *further]


@pytest.mark.slow
def test_batches_made_by_further_processes(exported, tmp_path, root, capsys):
    """The weights are those of a run that makes its own batches, also after a kill and an immediate new start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # equal bits: on the CPU

    def run(folder, *further: str) -> str:
        done = subprocess.run(
            command(exported, folder, *further), cwd=root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def weights(folder) -> dict[str, torch.Tensor]:
        return load_file(folder / "adapter.safetensors")

    said = run(tmp_path / "alone")
    assert "not followed" not in said
    with_workers = ("--run.workers", "2", "--run.graphed", "true")
    assert main(command(exported, tmp_path / "never", *with_workers, "--dry-run")[3:]) == 0
    planned = capsys.readouterr().out
    assert "batches   made by 2 further processes" in planned
    if not torch.cuda.is_available():
        assert "run.graphed = true is not followed because there is no CUDA GPU" in planned
    assert not (tmp_path / "never").exists()

    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(exported, killed, *with_workers), cwd=root, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    curve = killed / "localise" / "curve.csv"
    while process.poll() is None and not (curve.exists() and len(curve.read_text().splitlines()) > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    said = run(killed, *with_workers)
    if not torch.cuda.is_available():
        assert "run.graphed = true is not followed because there is no CUDA GPU" in said
    expected, found = weights(tmp_path / "alone"), weights(killed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_the_slurm_script_of_the_documents(exported, tmp_path, root):
    """As it is printed, on two "nodes" of this machine: srun starts its command twice, scontrol knows this host."""
    document = (root / "docs" / "training-scale.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", document, flags=re.DOTALL)
    (tmp_path / "my.toml").write_text(
        f"""preset = "mini"
        data.prepared = {json.dumps(str(exported / "prepared"))}
        run.folder = "run"
        extract.steps = 0
        localise = {{ steps = 3, batch_size = 4 }}
        samples.count = 0
        """,
        encoding="utf-8",
    )
    hosts = 'scontrol() { echo localhost; }; srun() { "$@" & "$@"; wait; }\n'
    torchrun = f'torchrun() {{ "{sys.executable}" -m torch.distributed.run "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", hosts + torchrun + script], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root),
            "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_ID": str(os.getpid()),
        },
    )  # fmt: skip
    assert (tmp_path / "run" / "adapter.safetensors").is_file(), done.stderr[-3000:]
    assert "the adapter is in run/adapter.safetensors" in done.stdout
    assert done.stdout.count("base: ") == 1, "two processes of one run, not two runs"


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
