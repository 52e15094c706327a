"""Files that are whole or not there: kills, competitors for one name, and what they leave behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from pidiff_core.errors import PIDiffError
from pidiff_core.files import whole_files
from pidiff_core.files.whole_files import remove_leftovers, write_whole


def test_an_interrupted_write_leaves_nothing_of_its_own(tmp_path):
    (tmp_path / "a").write_text("old")

    def broken(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", broken)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_names_that_no_file_can_have_are_an_error(tmp_path, name):
    with pytest.raises(PIDiffError, match="Cannot write"):
        write_whole(tmp_path / name, lambda path: path.write_text("x"))
    assert list(tmp_path.iterdir()) == []


EACH = 12  # names for each of four that compete


def claim(folder, number, found):
    names = []
    for _ in range(EACH):
        index = 0
        while not write_whole(folder / f"person_{index}", lambda path: path.write_text(str(number)), only_if_new=True):
            index += 1
        names.append(index)
    found.put((number, names))


@pytest.mark.parametrize("has_links", [True, False])
def test_processes_and_threads_never_get_one_name_twice(tmp_path, has_links, monkeypatch):
    if not has_links:  # such as exFAT

        def refused(self, target):
            raise OSError("not supported")

        monkeypatch.setattr(type(tmp_path), "hardlink_to", refused)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    found = context.Queue()
    runs = [context.Process(target=claim, args=(tmp_path, number, found)) for number in range(2)]
    runs += [threading.Thread(target=claim, args=(tmp_path, number, found)) for number in (2, 3)]
    for run in runs:
        run.start()
    claimed = dict(found.get(timeout=60) for _ in runs)
    for run in runs:
        run.join()
    owners = {index: number for number, indices in claimed.items() for index in indices}
    assert sorted(owners) == list(range(4 * EACH))
    for index, number in owners.items():
        assert (tmp_path / f"person_{index}").read_text() == str(number)
    assert len(list(tmp_path.iterdir())) == 4 * EACH


WRITES_FOR_EVER = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from pidiff_core.files.whole_files import write_whole
def write(path):
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
write_whole(pathlib.Path(sys.argv[2]) / "a", write)
"""


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells whether a process runs without touching it")
def test_a_killed_writer_leaves_a_file_that_the_next_one_removes(tmp_path, root):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES_FOR_EVER, str(root), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "writing\n"
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # it lives
    writer.kill()
    writer.wait()
    assert write_whole(tmp_path / "b", lambda path: path.write_text("b"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_other_machines_and_other_programs_keep_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files, "_machine", lambda: "0" * 8)
    foreign = tmp_path / f".pidiff-{'1' * 8}-1-{'2' * 12}.tmp"
    others = [tmp_path / ".pidiff-cache.tmp", tmp_path / ".other.tmp", tmp_path / "a.tmp"]
    for path in (foreign, *others):
        path.touch()
        os.utime(path, (0, 0) if path in others else None)
    remove_leftovers(tmp_path)
    assert foreign.exists()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(foreign, (two_days_ago, two_days_ago))
    remove_leftovers(tmp_path)
    assert not foreign.exists()
    assert all(path.exists() for path in others)
