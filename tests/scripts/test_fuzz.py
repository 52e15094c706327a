"""The fuzzer: what it makes can be made again, what it finds is reported, and the readers pass a short run."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

import fuzz
import fuzz_inputs
from pidiff_core.errors import PIDiffError


@pytest.fixture(scope="module")
def seeds():
    return fuzz_inputs.seeds()


def test_every_reader_has_valid_files(seeds):
    assert set(seeds) == set(fuzz_inputs.readers()) == set(fuzz.READERS)


@pytest.mark.parametrize("name", ["codes", "directions", "table", "landmarks", "config"])
def test_the_files_that_are_mutated_are_read(seeds, name, tmp_path):
    suffix, files = seeds[name]
    for number, content in enumerate(files):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        fuzz_inputs.readers()[name](path)


def test_a_number_is_always_the_same_input_and_hardly_ever_the_valid_one(seeds):
    for name, (_, files) in seeds.items():
        made = [fuzz_inputs.mutated(files[0], random.Random(number)) for number in range(40)]
        again = [fuzz_inputs.mutated(files[0], random.Random(number)) for number in range(40)]
        assert made == again, name
        assert sum(content == files[0] for content in made) < 10, name


def test_what_fails_is_told_and_what_is_refused_is_not(tmp_path):
    def refuse(path):
        raise PIDiffError("not a file of ours")

    def crash(path):
        raise KeyError(path.name)

    assert fuzz.failure_of(refuse, tmp_path) == ""
    assert fuzz.failure_of(crash, tmp_path).startswith("KeyError")


@pytest.mark.slow
def test_a_short_run_finds_nothing(root):
    done = subprocess.run(
        [sys.executable, str(root / "scripts" / "fuzz.py"), "--inputs", "400", "--seed", "7"],
        capture_output=True, text=True,
    )  # fmt: skip
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["inputs"], report["failures"]) == (400, 0), done.stdout
    assert done.returncode == 0
