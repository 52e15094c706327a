"""The set-up that every script begins with: quick the second time, honest when it cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import environment


def test_the_second_time_is_quick(root):
    if environment.venv_dir().resolve() != Path(sys.prefix).resolve():
        pytest.skip("these tests do not run in the environment that the scripts set up")
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(root / "scripts" / "environment.py")], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ready" in done.stdout
    assert "setting up the Python environment" not in done.stdout
    assert time.monotonic() - began < 10


def test_the_running_python_can_be_used_as_it_is(root, tmp_path):
    done = subprocess.run(
        [sys.executable, str(root / "scripts" / "environment.py")], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PIDIFF_VENV": "none", "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == f"[pidiff] ready: {sys.executable}"
    assert not list(tmp_path.iterdir())


def test_a_python_that_is_too_old_is_told_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit):
        environment.set_up(tmp_path / "venv")
    assert "Python 3.9.1" in capsys.readouterr().out
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_a_package_index_that_cannot_be_reached_ends_with_advice(monkeypatch, capsys, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("pidiff-has-no-such-package==0.0.1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit):
        environment.set_up(tmp_path / "venv")
    assert "pip could not install" in capsys.readouterr().out
    assert not (tmp_path / "venv" / "pidiff-requirements.sha256").exists()


def test_a_python_without_venv_or_pip_is_told_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(environment, "_works", lambda command: False)
    with pytest.raises(SystemExit):
        environment.set_up(tmp_path / "venv")
    assert "python3-venv" in capsys.readouterr().out


def test_the_fingerprint_follows_requirements_but_not_comments(monkeypatch, tmp_path):
    requirements = tmp_path / "requirements.txt"
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    prints = []
    for text in ("einops\n", "# a remark\neinops  # another\n\n", "einops>=0.8\n"):
        requirements.write_text(text)
        prints.append(environment._fingerprint())
    assert prints[0] == prints[1]
    assert prints[0] != prints[2]
