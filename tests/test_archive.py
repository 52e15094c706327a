"""The archive that the ComfyUI registry publishes: the pack runs from its files alone, and they are small enough."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_house import dotted, project_imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

LIMIT_BYTES = 27_000_000
RUN = """
import asyncio, json, pathlib, sys
sys.path.insert(0, {scripts!r})
import in_process
in_process.import_comfy({version!r}, pathlib.Path({base!r}))
import nodes, torch
pack = in_process.load_pack(pathlib.Path({pack!r}))
ids = [node.GET_SCHEMA().node_id for node in asyncio.run(asyncio.run(pack.module.comfy_entrypoint()).get_node_list())]
model, clip, vae, pidiff_model = pack.load("nodes.load_mini").LoadMini.execute().result
photo = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
encode = pack.load("nodes.encode").EncodeIdentity
wplus = encode.execute(pidiff_model, photo, detector="model", face_index=0, on_no_face="whole image").result[0]
apply = pack.load("nodes.apply").ApplyIdentityAdapter
applied = apply.execute(model=model, pidiff_model=pidiff_model, wplus=wplus, strength=1.0).result[0]
text = nodes.CLIPTextEncode().encode(clip, "a photo of a person")[0]
pictures = []
for patched in (model, applied):
    latent = {{"samples": torch.zeros(1, 4, 16, 16)}}
    (out,) = nodes.common_ksampler(patched, 0, 2, 1.0, "euler", "normal", text, text, latent)
    pictures.append(vae.decode(out["samples"]))
print(json.dumps(dict(
    ids=ids, shape=list(pictures[1].shape), contrast=float(pictures[1].std()),
    effect=float((pictures[1] - pictures[0]).abs().max()),
    outside=[m.__file__ for m in sys.modules.values() if str(getattr(m, "__file__", "")).startswith(tuple({source!r}))],
)))
"""


def git(root: Path, *arguments: str) -> set[str]:
    done = subprocess.run(["git", "-C", str(root), "ls-files", *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


@pytest.fixture(scope="module")
def names(root) -> set[str]:
    """Paths in the archive, from the checkout's root: what git tracks, less the patterns of .comfyignore."""
    if not (root / ".git").exists():
        pytest.skip("this checkout is no git repository: `comfy node pack` archives the files that git tracks")
    present = {name for name in git(root) if (root / name).is_file()}
    return present - git(root, "--cached", "--ignored", "--exclude-from=.comfyignore")


@pytest.fixture(scope="module")
def unpacked(root, names, tmp_path_factory) -> Path:
    """The archive's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("archive") / "pidiff"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    return folder


def test_what_only_developers_run_stays_out(names):
    left_out = {"drawn_world", "benchmarks", "tests", ".ci", ".github"}
    assert not {name for name in names if name.split("/")[0] in left_out}
    assert {"__init__.py", "README.md", "LICENSE", "requirements.txt", "pyproject.toml"} <= names
    assert {
        "web/js/edit_panel.js",
        "subgraphs/PIDiff Edit a Person.json",
        "subgraphs/PIDiff Photo to Person.json",
        *(f"samples/pidiff_sample_{number}.png" for number in (1, 2, 3)),
    } <= names
    assert {"web/docs/ApplyIdentityAdapter.md", "web/images/presets.jpg", "workflows/pidiff_mini.json"} <= names
    assert {"locales/zh/nodeDefs.json", "pidiff_core/mini/weights/base.safetensors"} <= names


def test_no_file_imports_what_is_left_out(root, names):
    modules = {dotted(root / name) for name in names if name.endswith(".py")}
    for name in sorted(names):
        if name.endswith(".py") and name != "__init__.py":
            assert project_imports(root / name) <= modules, name


def test_the_archive_is_small(unpacked, names, tmp_path):
    with zipfile.ZipFile(tmp_path / "node.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(unpacked / name, name)
    assert 20_000_000 < (tmp_path / "node.zip").stat().st_size <= LIMIT_BYTES


@pytest.mark.slow
def test_the_pack_registers_its_nodes_and_mini_draws_from_the_archive_alone(
    root, unpacked, pytestconfig, tmp_path_factory
):
    code = RUN.format(
        scripts=str(root / "scripts"),
        version=pytestconfig.getoption("--comfy-version"),
        base=str(tmp_path_factory.mktemp("comfy")),
        pack=str(unpacked),
        source=[str(root / folder) for folder in ("pidiff_core", "nodes", "drawn_world", "benchmarks")],
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=unpacked.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"LoadPIDiff", "EncodeIdentityW+", "ApplyIdentityAdapter", "StyleEdit", "PIDiffLoadMini"} <= set(
        found["ids"]
    )
    assert found["shape"] == [1, 128, 128, 3]
    assert found["contrast"] > 0.05
    assert found["effect"] > 0.01
    assert not found["outside"]


def test_a_wheel_of_the_core_has_all_of_its_files(root):
    """`pip wheel .` packs the packages that it finds, and other files if the project file names them."""
    core = root / "pidiff_core"
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {root.joinpath(*package.split(".")): patterns for package, patterns in data.items()}
    named = {path for folder, patterns in folders.items() for pattern in patterns for path in folder.glob(pattern)}
    files = {path for path in core.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == named
    packages = {path.parent for path in core.rglob("__init__.py")}
    assert {path.parent for path in files if path.suffix == ".py"} == packages
