"""Train the embedded mini bundle: `python scripts/train_mini.py [--out DIR] [--threads N] ...` (see --help).

Every stage is resumable: stop it when you like and run the same command again. Checkpoints, pictures to look at and the
loss curves (CSV) lie in DIR/<stage>; at the end the bundle is written to pidiff_core/mini/weights.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parent.parent

# Steps and batch of each stage, after those of the parts in drawn_world/parts; `--scale` multiplies the steps.
ON_CPU = {
    "autoencoder": (3000, 16),
    "base": (6000, 32),
    "generator": (3000, 32),
    "encoder": (3000, 32),
    "detector": (700, 64),
    "judge": (900, 64),
    "extract": (1500, 32),
    "localise": (3800, 32),
}
ON_GPU = ON_CPU | {
    "autoencoder": (4300, 64),
    "base": (3000, 384),
    "generator": (3000, 64),
    "extract": (750, 128),
    "localise": (2400, 128),
}


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "training_runs" / "mini", help="checkpoints and curves")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=None,
        help="where the bundle goes (default: into the pack; of a trial: DIR/bundle)",
    )
    parser.add_argument(
        "--from-nothing", action="store_true", help="do not continue from the trained parts in drawn_world/parts"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=tuple(ON_CPU),
        default=None,
        help="stages to train, or none; the parts of the others stay as they are",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every stage's steps, to try the recipe")
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile (no C++ compiler needed)")
    parser.add_argument("--people", type=int, default=None, help="drawn people (default: the recipe's)")
    options = parser.parse_args()

    sys.path.append(str(ROOT))
    import torch

    from drawn_world import parts, recipe
    from pidiff_core.mini import bundle

    if options.threads:
        torch.set_num_threads(options.threads)

    def is_trained(stage: str) -> bool:
        return options.only is None or stage in options.only

    table = ON_GPU if torch.cuda.is_available() else ON_CPU
    lengths = {
        stage: recipe.Length(steps=max(1, round(steps * options.scale)) if is_trained(stage) else 0, batch=batch)
        for stage, (steps, batch) in table.items()
    }
    notes = {
        "steps": json.dumps({stage: each.steps for stage, each in lengths.items()}),
        "batches": json.dumps({stage: each.batch for stage, each in lengths.items()}),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    # A trial of the recipe never replaces the shipped bundle.
    is_trial = options.scale != 1 or options.people is not None
    target = options.bundle or (options.out / "bundle" if is_trial else bundle.WEIGHTS)
    recipe.run(
        options.out,
        target,
        lengths=lengths,
        notes=notes,
        people=options.people,
        compiled=not options.no_compile,
        parts=None if options.from_nothing else parts.PARTS,
        say=environment.say,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
