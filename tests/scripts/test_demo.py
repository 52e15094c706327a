"""The README's first command, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def run_demo(root, *arguments):
    command = [sys.executable, str(root / "scripts" / "demo.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root.parent)


@pytest.mark.host
@pytest.mark.slow
def test_a_photo_in_pictures_and_a_contact_sheet_out(root, tmp_path):
    done = run_demo(root, "--out", tmp_path, "--seed", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path / "contact_sheet.png") in done.stdout
    sheet = Image.open(tmp_path / "contact_sheet.png")
    assert sheet.width > sheet.height > 600
    for number in range(1, 5):
        pictures = [
            np.asarray(Image.open(tmp_path / f"{number}_{kind}_identity_seed{2 + number}.png")) / 255.0
            for kind in ("with", "without")
        ]
        assert all(picture.shape == (128, 128, 3) and picture.std() > 0.05 for picture in pictures)
        assert np.abs(pictures[0] - pictures[1]).mean() > 0.01


def test_a_photo_that_is_not_there_is_said_plainly(root, tmp_path):
    done = run_demo(root, "--photo", tmp_path / "nobody.png", "--out", tmp_path)
    assert done.returncode == 1
    assert "nobody.png" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.host
def test_a_photo_without_a_face_ends_with_the_nodes_own_sentence(root, tmp_path):
    photo = tmp_path / "wall.png"
    Image.new("RGB", (320, 240), (180, 170, 160)).save(photo)
    done = run_demo(root, "--photo", photo, "--out", tmp_path)
    assert done.returncode == 1
    assert "EncodeIdentityW+" in done.stdout
    assert "face" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
