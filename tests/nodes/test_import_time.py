"""ComfyUI's start does not wait for the pack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

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
def import_once(pytestconfig, root, tmp_path_factory) -> Callable[[], dict]:
    """() -> one import of the pack into a fresh process that is ComfyUI already. All of them share their bytecode."""
    code = IMPORT.format(
        scripts=str(root / "scripts"),
        version=pytestconfig.getoption("--comfy-version"),
        base=str(tmp_path_factory.mktemp("comfy")),
        bytecode=str(tmp_path_factory.mktemp("bytecode")),
    )

    def run() -> dict:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def first(import_once) -> dict:
    """The import that compiles the modules, as at the first start after an installation."""
    return import_once()


@pytest.mark.slow
def test_the_import_takes_a_tenth_of_a_second(first, import_once):
    """Of the processor's time: other programs on the machine are not the pack's doing, so one of eight may be quick."""
    compiled = [import_once()["cpu_s"]]
    while len(compiled) < 8 and compiled[-1] > LIMIT_S:
        compiled.append(import_once()["cpu_s"])
    print(f"import {min(compiled):.3f} s; {first['cpu_s']:.3f} s with compiling its modules")
    assert min(compiled) <= LIMIT_S


def test_the_import_leaves_heavy_packages_for_when_they_are_needed(first):
    parts = {name.split(".")[0] for name in first["modules"]}
    assert not parts & {
        "kornia",
        "diffusers",
        "transformers",
        "accelerate",
        "facenet_pytorch",
        "skimage",
        "dlib",
    }
    assert not {name for name in first["modules"] if "drawn_world.render" in name or ".training" in name}
