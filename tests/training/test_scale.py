"""One run, however it is cut up: over processes, micro-batches and shards, and over kills and resumes."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="training is the optional extra `train`")
pytest.importorskip("diffusers", reason="training is the optional extra `train`")

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("small_run.py")
STEPS = 50


def command(folder: Path, *arguments: str, processes: int = 1, steps: int = STEPS) -> list[str]:
    program = [str(PROGRAM), str(folder), str(steps), *arguments]
    if processes == 1:
        return [sys.executable, *program]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    return [sys.executable, *launcher, *program]


def run(folder: Path, *arguments: str, processes: int = 1, steps: int = STEPS) -> None:
    done = subprocess.run(
        command(folder, *arguments, processes=processes, steps=steps),
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def column(folder: Path, name: str, file: str = "curve.csv") -> list[float]:
    return [float(row[name]) for row in csv.DictReader((folder / file).open())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run(folder)
    return folder


@pytest.mark.parametrize(
    ("processes", "arguments"),
    [(2, ()), (2, ("--sharding", "fsdp2")), (1, ("--accumulation", "2")), (2, ("--accumulation", "2"))],
    ids=["two processes", "two processes, sharded", "micro-batches", "two processes with micro-batches"],
)
def test_the_same_curve_however_a_step_is_shared_out(undisturbed, tmp_path, processes, arguments):
    run(tmp_path, *arguments, processes=processes)
    for name, file in (("loss", "curve.csv"), ("kept", "curve.csv"), ("loss", "validation.csv")):
        expected, found = (column(folder, name, file) for folder in (undisturbed, tmp_path))
        assert len(expected) == (STEPS if file == "curve.csv" else 5)
        assert found == pytest.approx(expected, abs=1e-4)
    expected, found = (torch.load(folder / "final.pt", weights_only=True) for folder in (undisturbed, tmp_path))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(undisturbed, tmp_path):
    """At ten moments; each time the next one takes up the newest checkpoint."""
    for kill in range(10):
        process = subprocess.Popen(
            command(tmp_path, "--every", "3"), env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        aim = 4 * kill + 2 + (kill * 7) % 3  # steps: before, at and after a checkpoint
        curve = tmp_path / "curve.csv"
        while process.poll() is None and not (curve.exists() and len(curve.read_text().splitlines()) > aim):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(tmp_path, "--every", "3")
    expected, found = (torch.load(folder / "final.pt", weights_only=True) for folder in (undisturbed, tmp_path))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert column(tmp_path, "step") == column(undisturbed, "step")


def test_ctrl_c_leaves_a_checkpoint(undisturbed, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--every", "1000"), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "curve.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    stopped = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert 1 <= stopped < STEPS
    assert not (tmp_path / "final.pt").exists()
    run(tmp_path, "--every", "1000")
    expected, found = (torch.load(folder / "final.pt", weights_only=True) for folder in (undisturbed, tmp_path))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("optimiser", "processes"),
    [("adamw", 2), ("adamw8bit", 1), ("adafactor", 1), ("prodigy", 1), ("schedule-free", 1)],
)
def test_optimisers_and_processes_resume_bit_by_bit(tmp_path, optimiser, processes):
    packages = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule-free": "schedulefree"}
    package = packages.get(optimiser, "torch")
    pytest.importorskip(package, reason=f"the optimiser's package {package} is optional")
    arguments = ("--optimiser", optimiser, "--every", "5")
    run(tmp_path, *arguments, processes=processes, steps=8)
    whole = torch.load(tmp_path / "final.pt", weights_only=True)
    for name in ("final.pt", "state.pt"):  # as if the run had been killed after its first checkpoint
        (tmp_path / name).unlink()
    assert torch.load(tmp_path / "previous_state.pt", weights_only=True)["step"] == 5
    run(tmp_path, *arguments, processes=processes, steps=8)
    parts = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
