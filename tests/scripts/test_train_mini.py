"""The command that trains the embedded bundle; tests/mini/test_recipe.py runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = ("scripts", "train_mini.py")


def run(root, *arguments):
    command = [sys.executable, str(root.joinpath(*SCRIPT)), *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_help_names_every_option(root):
    done = run(root, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--out", "--bundle", "--threads", "--scale", "--no-compile", "--people"):
        assert option in done.stdout


@pytest.mark.parametrize("arguments", [("--scale", "much"), ("--poeple", "80"), ("extra",)])
def test_a_wrong_option_is_named_and_nothing_is_trained(root, arguments):
    done = run(root, *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
