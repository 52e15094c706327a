"""The rules that hold the house together: which way imports point, how long files are, lists that must agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "pidiff_core"
# What a part of the core may import from the rest of it; what is not named here may import everything.
BASE = {"errors", "shapes", "initial", "products", "wplus", "images", "checkpoint"}
MAY_IMPORT = {
    "errors": set(),
    "shapes": {"errors"},
    "wplus": {"errors", "shapes"},
    "images": {"errors", "shapes"},
    "initial": set(),
    "products": set(),
    "mapped": set(),
    "checkpoint": {"errors", "shapes", "mapped"},
    "stylegan2": BASE,
    "e4e": BASE,
    "adapter": BASE,
    "lazy": set(),
    "face": BASE | {"lazy"},
    "editing": BASE | {"adapter"},
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes", "execution"}
OPTIONAL = {
    "accelerate", "diffusers", "facenet_pytorch", "insightface", "mediapipe", "onnxruntime", "skimage", "torchmetrics",
    "tqdm", "transformers",
}  # fmt: skip


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports, relative ones resolved against the checkout."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in _import_time(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
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


@pytest.mark.parametrize("path", sources("pidiff_core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_the_core_point_one_way(path):
    names = imported(path)
    roots = {name.split(".")[0] for name in names}
    assert not roots & HOST_MODULES, "the core must not know ComfyUI"
    part = path.relative_to(CORE).parts[0].removesuffix(".py")
    targets = {name.split(".")[1] for name in names if name.startswith("pidiff_core.")}
    if part in MAY_IMPORT:
        known = {entry.name.removesuffix(".py") for entry in CORE.iterdir()}
        assert (targets & known) - {part} <= MAY_IMPORT[part]
    if part not in ("training", "mini"):
        assert not {name.split(".")[0] for name in imported(path, top_level_only=True)} & OPTIONAL


@pytest.mark.parametrize("path", sources("nodes"), ids=lambda path: path.name)
def test_nodes_import_the_pack_relatively(path):
    absolute = {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert not {name for name in absolute if name and name.split(".")[0] in ("pidiff_core", "nodes")}


@pytest.mark.parametrize("folder", ["pidiff_core", "nodes", "scripts", "tests"])
def test_files_stay_readable(folder):
    too_long = {str(path.relative_to(ROOT)) for path in sources(folder) if len(path.read_text().splitlines()) > 330}
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


def test_the_type_checker_is_content():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
