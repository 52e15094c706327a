"""The command line: pidiff prepare | train | evaluate | export."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import PIDiffError
from .config import Config
from .config_file import dump, load_config, preset_names

_DESCRIPTION = """Train an identity adapter for your own base model.

  pidiff prepare    photos -> latents, masks, codes and texts, once
  pidiff train      prepared photos -> an adapter
  pidiff evaluate   how well adapters keep the person, the prompt and the background
  pidiff export     a run's adapter -> one file for LoadPIDiff

Settings come from a preset, then from a TOML file, then from the command line: --localise.steps 5000 or
--set localise.steps=5000. --print-config shows all of them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="pidiff", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=sorted(_COMMANDS))
    parser.add_argument("--preset", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--config", metavar="FILE", help="a TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="one setting")
    parser.add_argument("--dry-run", action="store_true", help="print what would happen, and write nothing")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as TOML")
    options, rest = parser.parse_known_args(arguments)
    try:
        overrides = [*_pairs(options.set), *_dotted(rest)]
        config = load_config(preset=options.preset, file=options.config, overrides=overrides)
        if options.print_config:
            print(dump(config))
            return 0
        _quiet()
        _COMMANDS[options.command](config, options.dry_run)
    except PIDiffError as error:
        print(f"pidiff: {error}", file=sys.stderr)
        return 2
    return 0


def _pairs(settings: Sequence[str]) -> list[tuple[str, str]]:
    for setting in settings:
        if "=" not in setting:
            raise PIDiffError(f"'--set {setting}' has no value: write --set table.key=value.")
    return [tuple(setting.split("=", 1)) for setting in settings]  # type: ignore[misc]


def _dotted(rest: Sequence[str]) -> list[tuple[str, str]]:
    """--table.key value and --table.key=value."""
    found, left = [], list(rest)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise PIDiffError(f"'{word}' was not expected here. Write settings as --table.key value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                raise PIDiffError(f"'{word}' has no value. Write --{key} value.")
            value = left.pop(0)
        found.append((key, value))
    return found


def _quiet() -> None:
    """diffusers and transformers warn about things that are right here."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()


def _prepare(config: Config, dry_run: bool) -> None:
    from .data.command import describe_prepare, run_prepare

    if dry_run:
        print(describe_prepare(config.prepare))
        return
    summary = run_prepare(config.prepare, base=_base(config), device=_device())
    if os.environ.get("RANK", "0") == "0":  # under torchrun, the others have the same
        print(summary.text())


def _train(config: Config, dry_run: bool) -> None:
    if config.person.photos:  # the preset "person"
        _tune(config, dry_run)
        return
    from .trainer import describe_training, run_training

    if dry_run:
        print(describe_training(config))
    else:
        run_training(config)


def _tune(config: Config, dry_run: bool) -> None:
    from .person_files import describe_person, run_person

    if dry_run:
        print(describe_person(config.person))
        return
    run_person(config.person, base=_base(config))


def _evaluate(config: Config, dry_run: bool) -> None:
    from .evaluate.command import run_evaluate

    if dry_run:
        print(f"would measure {', '.join(config.evaluate.adapters) or 'no adapter'} on {config.evaluate.data}")
        return
    run_evaluate(config.evaluate, base=_base(config))


def _export(config: Config, dry_run: bool) -> None:
    from .export import ADAPTER_FILE, export_adapter

    source = Path(config.run.folder) / ADAPTER_FILE
    out = Path(config.export.out or Path(config.run.folder) / "export.safetensors")
    if dry_run:
        print(f"would write {out} from {source}")
        return
    own = {"name": config.export.name, "author": config.export.author, "licence": config.export.licence}
    evaluation = Path(config.export.evaluation) if config.export.evaluation else None
    card = export_adapter(source, out, own=own, evaluation=evaluation, half=config.export.half)
    print("\n".join([f"written: {out}", *(f"  {key}: {value}" for key, value in card.items())]))
    if card["licence"] == "not stated":
        print("  state the licence with --export.licence, within those of the photos and the encoder")


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _base(config: Config) -> Any:
    from .bases import load_base

    if not config.base.path:
        raise PIDiffError("No base model was given. Give it as --base.path model.safetensors, or 'mini' to try.")
    return load_base(config.base.path, device=_device(), prediction=config.base.prediction)


_COMMANDS: dict[str, Callable[[Config, bool], None]] = {
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
}
