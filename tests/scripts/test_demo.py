"""The README's first command, as a newcomer runs it."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--adapter", "a.bin"], "--checkpoint and --encoder are missing"),
        (["--adapter", "a.bin", "--encoder", "e.pt"], "--checkpoint is missing"),
        (["--checkpoint", "gone.ckpt", "--adapter", "a.bin", "--encoder", "e.pt"], "file not found: gone.ckpt"),
        (["--checkpoint", "a.bin", "--adapter", "a.bin", "--encoder", "other/a.bin"], "a.bin would be found before"),
        (["--checkpoint", "a.bin", "--adapter", "a.bin", "--encoder", "other/e.pt"], "e.pt would be found before"),
        (["--checkpoint", "a.bin", "--adapter", "link.bin", "--encoder", "third/b.bin"], "other/b.bin would be found"),
        (["--photo", "~/nobody.png"], "home/nobody.png; give --photo a picture file"),
        (["--out", "a.bin"], "a.bin cannot be made a folder"),
        (["--out", "a.bin/pictures"], "a.bin/pictures cannot be made a folder"),
        (["--size", "512"], "the embedded model draws pictures of 128 px"),
        (["--checkpoint", "a.bin", "--adapter", "a.bin", "--encoder", "e.pt", "--size", "100"], "multiple of 8 px"),
        (["--steps", "0"], "at least one step"),
    ],
)
def test_options_that_do_not_make_sense_are_said_plainly(root, tmp_path, arguments, sentence):
    for name in ("home", "other", "third"):
        (tmp_path / name).mkdir()
    for name in ("a.bin", "e.pt", "other/a.bin", "other/b.bin", "other/e.pt", "third/b.bin"):
        (tmp_path / name).touch()
    (tmp_path / "link.bin").symlink_to(tmp_path / "other" / "a.bin")
    command = [sys.executable, str(root / "scripts" / "demo.py"), *arguments]
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | home)
    assert done.returncode == 1
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_photo_that_is_not_there_is_said_plainly(root, tmp_path):
    done = run_demo(root, "--photo", tmp_path / "nobody.png", "--out", tmp_path)
    assert done.returncode == 1
    assert "nobody.png" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.host
@pytest.mark.slow
def test_a_photo_without_a_face_ends_with_the_nodes_own_sentence(root, tmp_path):
    photo = tmp_path / "wall.png"
    Image.new("RGB", (320, 240), (180, 170, 160)).save(photo)
    done = run_demo(root, "--photo", photo, "--out", tmp_path)
    assert done.returncode == 1
    assert "EncodeIdentityW+" in done.stdout
    assert "face" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
