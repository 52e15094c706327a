"""The user's own weights for Stable Diffusion 1.5, wherever they lie, in the shipped workflow. Nothing is copied."""

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
        """What the command line says; None where it names none of them. Ends the script where something is wrong."""
        named = {name: path for name, path in given.items() if path is not None}
        if not named:
            return None
        if missing := [f"--{name}" for name in OPTIONS if name not in named]:
            environment.stop(
                f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing: your own weights need all of "
                "--checkpoint (Stable Diffusion 1.5), --adapter (wplus_adapter.bin or a PIDiff adapter) and --encoder "
                "(e4e_ffhq_encode.pt). Without any of them the embedded model draws."
            )
        for name, path in named.items():
            if not path.expanduser().is_file():
                environment.stop(
                    f"there is no file {path}, which --{name} names; web/docs/LoadPIDiff.md has the links."
                )
        weights = cls(**{name: path.expanduser().absolute() for name, path in named.items()})
        for paths in weights._kinds().values():
            for path in paths:
                _stop_where_another_is_found_first(path, list(dict.fromkeys(_parents(paths))))
        return weights

    def arguments(self, folder: Path) -> tuple[str, ...]:
        """ComfyUI's options that make the files known to it; `folder` gets the yaml that they name."""
        lines = ["own_weights:"]
        for key, paths in self._kinds().items():
            lines += [f"    {key}: |", *(f"        {parent}" for parent in dict.fromkeys(_parents(paths)))]
        config = folder / "extra_model_paths.yaml"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ("--extra-model-paths-config", str(config))

    def into(self, workflow: Workflow) -> Workflow:
        """The workflow with these files chosen in its two loaders."""
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
    """ComfyUI is told folders and a name: the first of the folders that has a file of that name gives it."""
    found = next(folder / path.name for folder in folders if (folder / path.name).exists())
    if not found.samefile(path):
        environment.stop(f"{found} would be found before {path}, which has the same name: rename one of them.")


def _parents(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The folders of the files, and those of what links among them lead to: a download cache is full of links."""
    for path in paths:
        yield path.parent
        yield path.resolve().parent
