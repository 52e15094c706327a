"""ComfyUI and the pack inside this process, for tests and benchmarks that need no server."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import comfy_host

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Pack:
    """The pack, loaded as ComfyUI loads a custom node: a package found by path, without sys.path."""

    module: ModuleType

    def load(self, name: str) -> ModuleType:
        """A module of the pack, such as "nodes.encode" or "pidiff_core.errors".

        Its classes are not those of a plain `import pidiff_core`: a node raises this module's PIDiffError.
        """
        return importlib.import_module(f"{self.module.__name__}.{name}")


def load_pack(folder: Path = ROOT) -> Pack:
    """Load the pack in `folder`, by default the checkout; call `import_comfy` first to use its nodes."""
    name = "pidiff_pack"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Pack(module)


def import_comfy(version: str, base: Path, *, cpu: bool = True) -> Path:
    """Make ComfyUI's own modules importable, with `base` for its folders; returns its tree. One version a process."""
    tree = comfy_host.prepare(version).tree
    already = sys.modules.get("nodes")
    assert already is None, f"something imported {already} as `nodes` before ComfyUI could"
    sys.path.insert(0, str(tree))
    # ComfyUI parses sys.argv only in its own main.py. Set its options here, before model_management picks a device and
    # folder_paths its folders.
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = str(base)
    import folder_paths

    assert Path(folder_paths.base_path) == base
    return tree
