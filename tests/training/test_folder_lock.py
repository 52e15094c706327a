"""Two runs in one folder at once."""

from __future__ import annotations

import signal
import subprocess
import sys

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


def test_runs_one_after_the_other(tmp_path):
    for _ in range(2):
        with folder_lock(tmp_path / "new" / "folder", what="prepare"):
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PIDiffError, match="Cannot write into"), folder_lock(tmp_path / "file" / "out", what="train"):
        pass
