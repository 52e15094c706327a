"""Fixtures for every test: the checkout, the pack as ComfyUI loads it, ComfyUI in this process, real servers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
# At the end of the path: in front, the checkout's nodes/ would hide ComfyUI's own nodes.py. `python -m pytest` puts the
# working directory in front, so that entry goes.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path += [str(ROOT), str(ROOT / "scripts")]

import comfy_host  # noqa: E402 (found by the line above)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--comfy-version",
        default=comfy_host.NEWEST,
        choices=sorted(comfy_host.RELEASES),
        help="the ComfyUI that the `comfy` fixture imports (the servers of tests/host run all versions)",
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Photos and codes for development that are not part of the project; the test is skipped where they are absent."""
    folder = ROOT.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("the reference folder (shared/reference beside the checkout) is not on this machine")
    return folder


@dataclass(frozen=True)
class Pack:
    """The checkout, loaded as ComfyUI loads a custom node: a package found by path, nothing on sys.path."""

    module: ModuleType

    def load(self, name: str) -> ModuleType:
        """A module of the pack, such as "nodes.encode" or "pidiff_core.errors".

        Its classes are not those of a plain `import pidiff_core`: a node raises this module's PIDiffError.
        """
        return importlib.import_module(f"{self.module.__name__}.{name}")


@pytest.fixture(scope="session")
def pack() -> Pack:
    name = "pidiff_pack"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Pack(module)


@dataclass(frozen=True)
class InProcessComfy:
    """A ComfyUI tree whose modules can be imported here: `import comfy.sd`, `import nodes`, `import folder_paths`."""

    tree: Path
    version: str
    base: Path  # its models, input and output folders


@pytest.fixture(scope="session")
def comfy(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> InProcessComfy:
    """ComfyUI's own modules on the CPU, importable from here on. One version a process: see --comfy-version."""
    version = pytestconfig.getoption("--comfy-version")
    tree = comfy_host.prepare(version).tree
    base = tmp_path_factory.mktemp("comfy")
    already = sys.modules.get("nodes")
    assert already is None, f"something imported {already} as `nodes` before ComfyUI could"
    sys.path.insert(0, str(tree))
    # ComfyUI parses sys.argv only when its own main.py asks for it; what it reads instead is set here, before
    # model_management picks a device and folder_paths its folders.
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base)
    import comfy.model_management
    import folder_paths

    assert str(comfy.model_management.get_torch_device()) == "cpu"
    assert Path(folder_paths.base_path) == base
    return InProcessComfy(tree, version, base)


@pytest.fixture(scope="session", params=sorted(comfy_host.RELEASES, reverse=True))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[comfy_host.ComfyServer]:
    """A real ComfyUI server with this pack, started once a version; pytest runs a version's tests together."""
    base = tmp_path_factory.mktemp(f"comfyui-{request.param}")
    host = comfy_host.prepare(request.param)
    with comfy_host.ComfyServer(host, base=base) as running:
        yield running


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photo with one face, off-centre: NASA's portrait of Eileen Collins, public domain, from scikit-image."""
    data = pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The markers that follow from the fixtures a test uses."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "server" in names:
            item.add_marker(pytest.mark.host)
        if "comfy" in names:
            item.add_marker(pytest.mark.comfy)
        if "page" in names:
            item.add_marker(pytest.mark.browser)


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may reach for a hub
