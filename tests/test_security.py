"""bandit, which checks for common security faults, finds nothing of medium or high severity but what is named here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# (file, bandit's number) -> why it is none
EXPLAINED = {
    ("scripts/comfy_host.py", "B202"): "the archive's checksum is pinned, and tarfile's own filter refuses bad members",
    ("pidiff_core/training/bases/text.py", "B615"): "reads a local folder: local_files_only",
    ("pidiff_core/training/evaluate/measures.py", "B615"): "reads a local folder: local_files_only",
}


@pytest.mark.slow
def test_bandit_finds_nothing_new(root):
    pytest.importorskip("bandit", reason="bandit is not installed (`pip install bandit`)")
    command = [sys.executable, "-m", "bandit", "-q", "-ll", "-f", "json", "-r"]
    done = subprocess.run(
        [*command, "__init__.py", "nodes", "pidiff_core", "scripts"], cwd=root, capture_output=True, text=True
    )
    results = json.loads(done.stdout)["results"]
    found = {(result["filename"].removeprefix("./"), result["test_id"]) for result in results}
    assert found == set(EXPLAINED)
