"""Curves beside the CSV files: TensorBoard's and Weights & Biases' own files, without a network."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training is the optional extra `train`")

from pidiff_core.errors import PIDiffError
from pidiff_core.training.logs import Trackers, check_trackers

PICTURES = torch.stack([torch.full((8, 8, 3), 0.2), torch.full((8, 8, 3), 1.0)])
LEVELS = [51, 255]  # of the pictures, in 8 bits


def levels(file) -> set[int]:
    """The values of all pixels in a picture file."""
    with Image.open(file) as picture:
        return {value for pixel in picture.convert("RGB").getdata() for value in pixel}


def log_something(names: tuple[str, ...], folder) -> None:
    trackers = Trackers(names, folder, run="localise")
    trackers.scalars({"localise/loss": 0.25}, step=3)
    trackers.images("localise/samples", PICTURES, step=3)
    trackers.close()


def test_tensorboard_reads_its_curve_and_pictures(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is the optional extra `curves`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_something(("tensorboard",), tmp_path)
    (events,) = (tmp_path / "tensorboard").rglob("events.out.*")
    found = EventAccumulator(str(events))
    found.Reload()
    (point,) = found.Scalars("localise/loss")
    assert (point.step, point.value) == (3, 0.25)
    (tag,) = found.Tags()["images"]
    (grid,) = found.Images(tag)
    assert levels(io.BytesIO(grid.encoded_image_string)) == set(LEVELS)


@pytest.mark.slow
def test_wandb_offline_keeps_everything_in_the_runs_folder(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is the optional extra `curves`")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_something(("wandb",), tmp_path)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    assert b"localise/loss" in record.read_bytes()
    assert sorted(map(levels, run.rglob("*.png")), key=max) == [{level} for level in LEVELS]


def test_exception_for_a_tracker_that_is_not_there(monkeypatch):
    with pytest.raises(PIDiffError, match="The tracker is 'mlflow': expected tensorboard or wandb"):
        check_trackers(("mlflow",))
    monkeypatch.setattr("pidiff_core.training.logs.find_spec", lambda name: None)
    with pytest.raises(PIDiffError, match="'wandb' is not installed: pip install wandb"):
        check_trackers(("wandb",))
