"""What a run writes down: curves as CSV, and to TensorBoard or Weights & Biases if they are installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import PIDiffError

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}  # name -> package


class Curve:
    """Appends rows to a CSV file whose columns the first row names.

    Rows after step `since` are dropped: a stopped run had logged them, the resumed one will log them again.
    """

    def __init__(self, path: Path, *, since: int) -> None:
        self.path = path
        if path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            path.write_text("".join([header, *(row for row in rows if int(row.split(",")[0]) <= since)]))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one row."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *scalars])
            writer.writerow([step, *(f"{value:.6g}" for value in scalars.values())])


class Trackers:
    """TensorBoard and Weights & Biases, through accelerate's own trackers.

    Args:
        names: keys of `TRACKERS`.
        folder: where TensorBoard's files go, in a folder "tensorboard".
        run: name of the run.

    Raises:
        PIDiffError: an unknown tracker, or its package is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, *, run: str) -> None:
        check_trackers(names)
        self._trackers: list[Any] = []
        if "tensorboard" in names:
            from accelerate.tracking import TensorBoardTracker

            self._trackers.append(_started(TensorBoardTracker(run, logging_dir=folder / "tensorboard")))
        if "wandb" in names:
            from accelerate.tracking import WandBTracker

            self._trackers.append(_started(WandBTracker("pidiff", name=run, dir=str(folder))))

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Log named numbers."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def images(self, name: str, images_bhwc: Tensor, *, step: int) -> None:
        """Log pictures (B, H, W, 3) in [0, 1]."""
        pictures = (images_bhwc.float().cpu() * 255).round().clamp(0, 255).byte().numpy()  # wandb draws [0, 1] as black
        for tracker in self._trackers:
            if tracker.name == "wandb":
                tracker.log_images({name: list(pictures)}, step=step)
            else:
                tracker.log_images({name: pictures}, step=step, dataformats="NHWC")

    def close(self) -> None:
        """Write what is still buffered."""
        for tracker in self._trackers:
            tracker.finish()


def _started(tracker: Any) -> Any:
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def check_trackers(names: Sequence[str]) -> None:
    """PIDiffError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise PIDiffError(f"The tracker is '{name}': expected {' or '.join(TRACKERS)}.")
        if find_spec(TRACKERS[name]) is None:
            raise PIDiffError(f"The tracker '{name}' is not installed: pip install {TRACKERS[name]}")
