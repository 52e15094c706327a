"""ComfyUI's start does not wait for the pack."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

IMPORT = """
import json, sys, time
sys.path.insert(0, {scripts!r})
import pathlib
import in_process
in_process.import_comfy({version!r}, pathlib.Path({base!r}))
import comfy.samplers, comfy.sd, comfy_api.latest, nodes  # what ComfyUI has imported before it comes to custom nodes
before = set(sys.modules)
sys.pycache_prefix, sys.dont_write_bytecode = {bytecode!r}, False
wall, cpu = time.perf_counter(), time.process_time()
in_process.load_pack().load("nodes").extension()
times = dict(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
print(json.dumps(times | dict(modules=sorted(set(sys.modules) - before))))
"""


LIMIT_S = 0.1


@pytest.fixture(scope="module")
def imports(pytestconfig, root, tmp_path_factory) -> list[dict]:
    """Imports of the pack, each into a fresh process that is ComfyUI already. The first one compiles, as at the first
    start after an installation; then up to eight with the bytecode it leaves, until one is quick."""
    code = IMPORT.format(
        scripts=str(root / "scripts"),
        version=pytestconfig.getoption("--comfy-version"),
        base=str(tmp_path_factory.mktemp("comfy")),
        bytecode=str(tmp_path_factory.mktemp("bytecode")),
    )
    found: list[dict] = []
    while len(found) < 9 and not (len(found) > 1 and found[-1]["cpu_s"] <= LIMIT_S):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.splitlines()[-1]))
    return found


def test_the_import_takes_a_tenth_of_a_second(imports):
    """Of the processor's time: other programs on the machine are not the pack's doing."""
    compiled = [run["cpu_s"] for run in imports[1:]]
    print(f"import {min(compiled):.3f} s; {imports[0]['cpu_s']:.3f} s with compiling its modules")
    assert min(compiled) <= LIMIT_S


def test_the_import_leaves_heavy_packages_for_when_they_are_needed(imports):
    parts = {name.split(".")[0] for name in imports[0]["modules"]}
    assert not parts & {
        "kornia",
        "diffusers",
        "transformers",
        "accelerate",
        "facenet_pytorch",
        "skimage",
        "dlib",
    }
    assert not {name for name in imports[0]["modules"] if "drawn_world.render" in name or ".training" in name}
