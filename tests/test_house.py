"""The rules that hold the house together: which way imports point, how long files are, lists that must agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"errors", "shapes", "images"}
CONTAINERS = {
    f"files.{name}"
    for name in (
        "arrays", "cache", "container", "lazy", "pickle_scan", "pickles", "recognise", "safetensors", "weights",
        "whole_files",
    )
}  # fmt: skip
# Which parts of the project each part may import. A part is the longest entry that a module's name begins with; every
# module belongs to one.
CORE = {
    "errors": set(),
    "shapes": {"errors"},
    "images": {"errors", "shapes"},
    "precision": set(),
    **{name: {"errors"} | CONTAINERS for name in CONTAINERS},
    "wplus.codes": {"errors", "shapes"},
    "wplus": BASE | CONTAINERS | {"wplus.codes"},
    "stylegan2": BASE,
    "e4e": BASE,
    "adapter": BASE | {"wplus.codes"},
    "face": BASE | CONTAINERS,
    "model": BASE | CONTAINERS | {"wplus.codes", "adapter", "face"},
    "pipeline": BASE | {"wplus.codes", "face", "model"},
    "files.adapters": BASE | CONTAINERS | {"wplus.codes", "adapter"},
    "files.foreign": BASE | CONTAINERS | {"wplus.codes", "adapter", "e4e", "stylegan2", "files.adapters"},
    "files.networks": BASE | CONTAINERS | {"wplus.codes", "e4e", "stylegan2", "model", "files.foreign"},
    "files.loading": BASE | CONTAINERS | {"wplus.codes", "adapter", "model", "files"},
    "files.convert": BASE | {"files", "model"},
    "mini": BASE | CONTAINERS | {"wplus.codes", "adapter", "e4e", "stylegan2", "face", "model", "files"},
    "training.person": BASE | {"wplus", "adapter", "model", "training"},
    "training.data.buckets": BASE,
    "training": BASE
    | {"precision", "wplus", "adapter", "face", "e4e", "stylegan2", "files", "model", "pipeline", "mini"},
}
RUNTIME = {f"pidiff_core.{part}" for part in CORE if part != "training"}
MAY_IMPORT = {f"pidiff_core.{part}": {f"pidiff_core.{name}" for name in names} for part, names in CORE.items()} | {
    "nodes.host": RUNTIME,
    "nodes.unet": RUNTIME,
    "nodes": RUNTIME | {"nodes.host", "nodes.unet"},
    "drawn_world": {"pidiff_core"},
    "benchmarks": {"pidiff_core", "drawn_world", "scripts.environment", "scripts.comfy_host", "scripts.in_process"},
    "scripts.environment": set(),
    "scripts.comfy_client": set(),
    "scripts.comfy_host": {"scripts.environment", "scripts.comfy_client"},
    "scripts.in_process": {"scripts.comfy_host"},
    "scripts.browser": {"scripts.environment"},
    "scripts.contact_sheet": set(),
    "scripts.own_weights": {"scripts.environment", "scripts.comfy_client"},
    "scripts.workflow_layouts": set(),
    "scripts": {"pidiff_core", "drawn_world", "benchmarks"},
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes", "execution"}
OPTIONAL = {
    "accelerate", "diffusers", "dlib", "face_recognition_models", "facenet_pytorch", "insightface", "mediapipe",
    "onnxruntime", "skimage", "tqdm", "transformers",
}  # fmt: skip


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports, relative ones resolved against the checkout.

    scripts/ is a folder of programs, not a package: its files are imported by plain name, from benchmarks/ too.
    The `nodes` that both import is ComfyUI's.
    """
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in _import_time(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    if path.relative_to(ROOT).parts[0] in ("scripts", "benchmarks"):
        names = {name for name in names if name.split(".")[0] != "nodes"}
        names = {f"scripts.{name}" if name.split(".")[0] in SCRIPTS else name for name in names}
    return names


def _import_time(node: ast.AST) -> list[ast.AST]:
    """All nodes that run when the module is imported, for real and not only for a type checker."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *_import_time(child)]
    return found


SCRIPTS = {path.stem for path in sources("scripts")}
ROOMS = [
    path for folder in ("pidiff_core", "nodes", "drawn_world", "benchmarks", "scripts") for path in sources(folder)
]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path) for path in ROOMS}


def part_of(module: str, parts: Iterable[str] = MAY_IMPORT) -> str:
    fitting = [part for part in parts if module == part or module.startswith(f"{part}.")]
    return max(fitting, key=len, default="")


def project_imports(path: Path) -> set[str]:
    """The project's modules that a file imports, also for a type checker alone."""
    return {module for name in imported(path) if (module := part_of(name, MODULES))} - {dotted(path)}


@pytest.mark.parametrize("path", ROOMS, ids=dotted)
def test_imports_point_one_way(path):
    part = part_of(dotted(path))
    packages = {"pidiff_core", "pidiff_core.adapter", "pidiff_core.files", "pidiff_core.wplus"}
    if dotted(path) in packages:
        assert not project_imports(path)
        return
    assert part, f"no entry of MAY_IMPORT covers {dotted(path)}"
    allowed = MAY_IMPORT[part] | {part}
    wrong = {name for name in project_imports(path) - packages if not part_of(name, allowed)}
    assert not wrong
    roots = {name.split(".")[0] for name in imported(path)}
    if part.startswith("pidiff_core"):
        assert not roots & (HOST_MODULES | {"drawn_world", "benchmarks", "scripts"}), "the core must know none of these"
    if part not in ("pidiff_core.training", "drawn_world"):
        assert not {name.split(".")[0] for name in imported(path, top_level_only=True)} & OPTIONAL


@pytest.mark.parametrize("path", ROOMS, ids=dotted)
def test_what_is_imported_exists(path):
    """Imports inside functions too, which no other test may run."""
    own = {module.split(".")[0] for module in MODULES}
    names = {name for name in imported(path) if name.split(".")[0] in own}
    assert not {name for name in names if name not in MODULES and name.rpartition(".")[0] not in MODULES}


def test_no_imports_go_in_a_circle():
    graph = {dotted(path): project_imports(path) for path in ROOMS}
    assert list(TopologicalSorter(graph).static_order())


def test_the_core_has_few_modules_in_its_root():
    assert len([path for path in (ROOT / "pidiff_core").glob("*.py") if path.name != "__init__.py"]) <= 6


@pytest.mark.parametrize("path", sources("nodes"), ids=lambda path: path.name)
def test_nodes_import_the_pack_relatively(path):
    absolute = {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert not {name for name in absolute if name and name.split(".")[0] in ("pidiff_core", "nodes")}


@pytest.mark.parametrize("folder", ["pidiff_core", "nodes", "benchmarks", "scripts", "tests"])
def test_files_stay_readable(folder):
    too_long = {str(path.relative_to(ROOT)) for path in sources(folder) if len(path.read_text().splitlines()) > 600}
    assert not too_long
    assert not {path for path in sources(folder) if path.stem in ("utils", "util", "helpers", "misc", "common")}


def test_requirements_agree_with_the_project_file():
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)
    assert listed is not None
    plain = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert re.findall(r'"([^"]+)"', listed[1]) == [line for line in plain if line]


def test_the_linter_is_content():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_type_checker_is_content():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
