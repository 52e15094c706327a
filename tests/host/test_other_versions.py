"""ComfyUI versions other than the default one: the tests that import ComfyUI, and a smoke test of a server."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import comfy_host


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("version", comfy_host.TESTED[1:])
def test_the_in_process_tests_pass_on_the_other_host_too(version, root):
    command = [sys.executable, "-m", "pytest", "-q", "-m", "comfy and not slow", "--comfy-version", version]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.host
@pytest.mark.slow
def test_the_same_picture_on_every_version(api_workflow, photo, tmp_path):
    """The nodes register, the templates are offered, and the embedded model draws the same, bit for bit."""
    pictures = {}
    for version in comfy_host.RELEASES:
        if version in comfy_host.TESTED[1:]:
            continue
        workflow = api_workflow("pidiff_mini")
        workflow["8"]["inputs"]["steps"] = 2
        with comfy_host.ComfyServer(comfy_host.prepare(version), base=tmp_path / version) as server:
            ours = {
                name for name, info in server.object_info().items() if info["python_module"] == "custom_nodes.pidiff"
            }
            assert {"LoadPIDiff", "EncodeIdentityW+", "ApplyIdentityAdapter", "StyleEdit", "PIDiffLoadMini"} <= ours
            assert "pidiff_mini" in server.get_json("/workflow_templates")["pidiff"]
            workflow["2"]["inputs"]["image"] = server.upload_image(photo)
            data = server.fetch_image(server.run(workflow).images("10")[0])
        pictures[version] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert set(pictures) == {"0.30.0", "0.16.3", "0.3.75"}
    for version, drawn in pictures.items():
        assert drawn.std() > 5, version
        assert np.array_equal(drawn, pictures[comfy_host.DEFAULT]), version
