"""Fixtures for every test: the checkout, the pack as ComfyUI loads it, ComfyUI in this process, real servers."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# At the end of the path: in front, the checkout's nodes/ would hide ComfyUI's own nodes.py. `python -m pytest` puts the
# working directory in front, so that entry goes.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path += [str(ROOT), str(ROOT / "scripts")]

import comfy_host  # noqa: E402 (found by the line above)
from in_process import Pack, import_comfy, load_pack  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--comfy-version",
        default=comfy_host.DEFAULT,
        choices=sorted(comfy_host.RELEASES),
        help="the ComfyUI that the `comfy` fixture imports (the servers of tests/host do not depend on it)",
    )
    parser.addoption(
        "--comfy-device", default="cpu", choices=("cpu", "cuda"), help="where the `comfy` fixture's ComfyUI computes"
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


@pytest.fixture(scope="session", params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine, in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def pack() -> Pack:
    return load_pack()


@dataclass(frozen=True)
class InProcessComfy:
    """A ComfyUI tree whose modules can be imported here: `import comfy.sd`, `import nodes`, `import folder_paths`."""

    tree: Path
    version: str
    base: Path  # its models, input and output folders


@pytest.fixture(scope="session")
def comfy(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> InProcessComfy:
    """ComfyUI's own modules, importable from here on. One version and one device a process: see --comfy-version and
    --comfy-device."""
    version, device = (pytestconfig.getoption(f"--comfy-{what}") for what in ("version", "device"))
    base = tmp_path_factory.mktemp("comfy")
    tree = import_comfy(version, base, cpu=device == "cpu")
    import comfy.model_management

    assert comfy.model_management.get_torch_device().type == device
    return InProcessComfy(tree, version, base)


# Every test of a server runs with each of these; with the older ones it counts as slow.
HOSTS = [comfy_host.DEFAULT, *(pytest.param(version, marks=pytest.mark.slow) for version in comfy_host.TESTED[1:])]


@pytest.fixture(scope="session", params=HOSTS)
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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The markers that follow from a test's fixtures and folder, and which tests stay in one process.

    In one process run the tests of one server, and else those of one file. What takes longest comes first.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "server" in names:
            item.add_marker(pytest.mark.host)
        if "comfy" in names:
            item.add_marker(pytest.mark.comfy)
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.browser)
    groups = {item: _group(item) for item in items}
    slow = Counter(groups[item] for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (not groups[item].startswith("server"), -slow[groups[item]], groups[item]))
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return f"server {parameters['server']}" if "server" in parameters else item.path.relative_to(ROOT).as_posix()


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may reach for a hub
torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on a GPU too
