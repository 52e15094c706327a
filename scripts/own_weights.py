"""The user's own weights for Stable Diffusion 1.5 in the shipped workflow, without copying the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import environment

if TYPE_CHECKING:
    from comfy_client import Workflow

OPTIONS = ("checkpoint", "adapter", "encoder")


@dataclass(frozen=True)
class OwnWeights:
    """Absolute paths of the three files."""

    checkpoint: Path
    adapter: Path
    encoder: Path

    @classmethod
    def from_options(cls, **given: Path | None) -> OwnWeights | None:
        """The files of the command line; None if no file is given. Ends the script if an option is wrong."""
        named = {name: path for name, path in given.items() if path is not None}
        if not named:
            return None
        if missing := [f"--{name}" for name in OPTIONS if name not in named]:
            environment.stop(
                f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing: your own weights need all of "
                "--checkpoint (Stable Diffusion 1.5), --adapter (wplus_adapter.bin or a PIDiff adapter) and --encoder "
                "(e4e_ffhq_encode.pt). Without these options the embedded model is used."
            )
        for name, path in named.items():
            if not path.expanduser().is_file():
                environment.stop(f"file not found: {path}, given as --{name}; web/docs/LoadPIDiff.md has the links.")
        weights = cls(**{name: path.expanduser().absolute() for name, path in named.items()})
        for paths in weights._kinds().values():
            for path in paths:
                _stop_where_another_is_found_first(path, list(dict.fromkeys(_parents(paths))))
        return weights

    def arguments(self, folder: Path) -> tuple[str, ...]:
        """Options for ComfyUI that add the files' folders; writes a yaml file to `folder`."""
        lines = ["own_weights:"]
        for key, paths in self._kinds().items():
            lines += [f"    {key}: |", *(f"        {parent}" for parent in dict.fromkeys(_parents(paths)))]
        config = folder / "extra_model_paths.yaml"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ("--extra-model-paths-config", str(config))

    def into(self, workflow: Workflow) -> Workflow:
        """The workflow with these files in its two loaders."""
        job = json.loads(json.dumps(workflow))
        for node in job.values():
            if node["class_type"] == "CheckpointLoaderSimple":
                node["inputs"]["ckpt_name"] = self.checkpoint.name
            elif node["class_type"] == "LoadPIDiff":
                node["inputs"] |= {"adapter": self.adapter.name, "encoder": self.encoder.name}
        return job

    def _kinds(self) -> dict[str, tuple[Path, ...]]:
        """The files by ComfyUI's name for their kind."""
        return {"checkpoints": (self.checkpoint,), "pidiff": (self.adapter, self.encoder)}

    def __str__(self) -> str:
        return "   +   ".join(getattr(self, name).name for name in OPTIONS)


def _stop_where_another_is_found_first(path: Path, folders: list[Path]) -> None:
    """Stop if ComfyUI, which gets folders and a file name, would find another file of this name first."""
    found = next(folder / path.name for folder in folders if (folder / path.name).exists())
    if not found.samefile(path):
        environment.stop(f"{found} would be found before {path}, because both have the same name: rename one of them.")


def _parents(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The folders of the files and of their link targets: files of a download cache are links."""
    for path in paths:
        yield path.parent
        yield path.resolve().parent
