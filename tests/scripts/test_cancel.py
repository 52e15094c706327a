"""scripts/cancel.py against a real ComfyUI: a node stops soon after Cancel."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("skimage", reason="the photo is scikit-image's")


@pytest.mark.slow
def test_training_and_the_search_for_faces_stop_within_a_second(root):
    done = subprocess.run(
        [sys.executable, str(root / "scripts/cancel.py"), "--only", "training", "faces", "--rounds", "3"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-2000:]  # 1: none was cancelled, or on a busy machine one was slow
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("training", "faces"):
        assert report[name]["work_s"] > 0.0
        if report[name]["rounds"]:
            assert report[name]["longest_s"] < 5.0, report
