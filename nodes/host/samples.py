"""The drawn people that come with the pack, in ComfyUI's input folder: the shipped workflows run at once with them."""

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from pathlib import Path

import folder_paths

from ...pidiff_core.errors import PIDiffError
from ...pidiff_core.files.whole_files import write_whole

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def offer_samples() -> None:
    """Copy those that are missing, so that Load Image lists them. A folder that cannot be written stays as it is."""
    inputs = Path(folder_paths.get_input_directory())
    for sample in sorted(SAMPLES.glob("*.png")):
        if inputs.is_dir() and not (inputs / sample.name).exists():
            with contextlib.suppress(PIDiffError):
                write_whole(inputs / sample.name, partial(shutil.copyfile, sample), only_if_new=True)
