"""Two runs in one folder at once."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time

import pytest

from pidiff_core.errors import PIDiffError
from pidiff_core.training.folder_lock import LOCK_FILE, folder_lock

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pidiff_core.training.folder_lock import folder_lock
with folder_lock(sys.argv[1], what="prepare"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path, root):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, root], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_names_the_first(tmp_path, holder):
    with (
        pytest.raises(PIDiffError, match=f"pidiff prepare, process {holder.pid}.*folder of its own"),
        folder_lock(tmp_path, what="train"),
    ):
        pass


def test_a_killed_run_leaves_the_folder_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path, what="train"):
        assert "pidiff train" in (tmp_path / LOCK_FILE).read_text()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_that_a_run_has_forked_does_not_keep_the_folder(tmp_path):
    """As those that make batches, which end a few seconds after a run that was killed."""
    with folder_lock(tmp_path, what="train"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        with pytest.raises(PIDiffError, match="Another run works in"), folder_lock(tmp_path, what="train"):
            pass
    with folder_lock(tmp_path, what="train"):
        assert child.is_alive()
    child.kill()
    child.join()


def test_runs_one_after_the_other(tmp_path):
    for _ in range(2):
        with folder_lock(tmp_path / "new" / "folder", what="prepare"):
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PIDiffError, match="Cannot write into"), folder_lock(tmp_path / "file" / "out", what="train"):
        pass
