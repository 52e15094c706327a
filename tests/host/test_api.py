"""The example of docs/api.md, as it is printed, against a real server; and a photo inside the prompt."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys

import pytest

import comfy_host
from comfy_client import WorkflowError

# What answers is ComfyUI's own server; the pack's part is the same in all versions.
one_version = pytest.mark.parametrize("server", [comfy_host.DEFAULT], indirect=True)


@pytest.mark.slow
@one_version
def test_the_printed_example_draws_a_picture(server, root, tmp_path):
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    script = tmp_path / "draw.py"
    script.write_text(code)
    workflow = json.loads((root / "workflows" / "api" / "pidiff_mini.json").read_text())
    workflow["8"]["inputs"]["steps"] = 2
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    photo, out = root / "samples" / "pidiff_sample_1.png", tmp_path / "beach.png"
    command = [sys.executable, str(script), server.address, str(photo), str(tmp_path / "workflow.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_table_names_the_nodes_of_the_workflows(root):
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| pidiff_" in line]
    assert len(rows) == 13
    for names, *columns in rows:
        for name in names.split(", "):
            workflow = json.loads((root / "workflows" / "api" / f"{name}.json").read_text())
            for part in ";".join(columns[:3]).split(";"):
                for node_id in re.findall(r"`(\d+)`", part):
                    assert part.split()[-1] in workflow[node_id]["inputs"], (name, part)
            for node_id in re.findall(r"`(\d+)`", columns[3]):
                assert node_id in workflow, (name, node_id)


@pytest.mark.slow
@one_version
def test_a_photo_inside_the_prompt(server, root, api_workflow, picture):
    workflow = api_workflow("pidiff_paste")
    photo = base64.b64encode((root / "samples" / "pidiff_sample_1.png").read_bytes()).decode()
    workflow["2"] = {"class_type": "PIDiffImageFromText", "inputs": {"text": f"data:image/png;base64,{photo}"}}
    assert picture(server.run(workflow), "6").shape == (512, 512, 3)
    workflow["2"]["inputs"]["text"] = "no picture"
    with pytest.raises(WorkflowError, match="not base64"):
        server.run(workflow)
