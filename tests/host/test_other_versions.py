"""What imports ComfyUI into the test process sees one version of it; here the others get their turn."""

from __future__ import annotations

import subprocess
import sys

import pytest

import comfy_host


@pytest.mark.host
@pytest.mark.parametrize("version", sorted(set(comfy_host.RELEASES) - {comfy_host.NEWEST}))
def test_the_in_process_tests_pass_on_the_other_host_too(version, root):
    command = [sys.executable, "-m", "pytest", "-q", "-m", "comfy and not slow", "--comfy-version", version]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
