"""What `pidiff evaluate` runs: opens what the options name, measures, writes the report."""

from __future__ import annotations

from pathlib import Path

from ...adapter.adapter import IdentityAdapter
from ...errors import PIDiffError
from ...face.detectors.auto import choose_detectors
from ...face.recognisers import recogniser
from ...files.loading import load_any_adapter
from ...mini.bundle import load_identity
from ...wplus.codes import WPlusSpace
from ...wplus.direction_files import load_directions
from ...wplus.directions import Direction
from ..bases.base import Base
from ..data.prepared import PreparedData
from ..data.read_photo import find_head
from .evaluate import Evaluation, evaluate
from .measures import ClipAlignment
from .options import EvaluateOptions
from .report import table, write_report


def run_evaluate(options: EvaluateOptions, *, base: Base) -> Evaluation:
    """Measure the adapters of the options with a progress bar, print the table, write the report.

    Raises:
        PIDiffError: no adapters, or one of another W+ space; prepared data of another base; no recogniser; or a file
            that is not valid.
    """
    from tqdm import tqdm

    if not options.adapters:
        raise PIDiffError("No adapter to evaluate was given. Give one or more as --evaluate.adapters a.safetensors")
    data = PreparedData.open(options.data, base=base)
    adapters = _load_adapters(options.adapters, data.space)
    own = load_identity() if base.family == "mini" else None
    detectors = choose_detectors(
        options.detector,
        own=own.detector if own else None,
        yunet_path=options.yunet or None,
        searched=["evaluate.yunet"],
    )
    direction = _direction(options.directions, own.directions if own else {})
    with tqdm(desc="pictures", unit="picture") as bar:

        def progress(what: str, done: int, count: int) -> None:
            bar.set_description(what)
            bar.total = count
            bar.n = done
            bar.refresh()

        evaluation = evaluate(
            options,
            base=base,
            adapters=adapters,
            data=data,
            judge=recogniser(options.recogniser, insightface_root=options.insightface or None),
            find_head=lambda image: find_head(image, detectors),
            clip=ClipAlignment(options.clip) if options.clip else None,
            direction=direction,
            progress=progress,
        )
    folder = write_report(evaluation, options)
    print(table(evaluation))
    print(f"written: {folder / 'table.txt'}, evaluation.json and sheet.jpg")
    return evaluation


def _load_adapters(paths: tuple[str, ...], space: WPlusSpace) -> dict[str, IdentityAdapter]:
    """By their files' names; names that occur twice get their folder in front."""
    files = [Path(path) for path in paths]
    stems = [path.stem for path in files]
    adapters = {}
    for path in files:
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        file = load_any_adapter(path)
        if file.space != space:
            raise PIDiffError(f"{path} reads codes of {file.space}, but the data holds codes of {space}.")
        adapters[name] = file.adapter
    if len(adapters) < len(files):
        raise PIDiffError(f"Two of the adapters have the same name: {', '.join(paths)}. Rename one.")
    return adapters


def _direction(choice: str, embedded: object) -> Direction | None:
    if not choice:
        return None
    known = dict(embedded) if isinstance(embedded, dict) else {}
    if choice in known:
        return Direction(choice, known[choice])
    if not Path(choice).is_file():
        raise PIDiffError(
            f"evaluate.directions should be a file of a direction, or one of the embedded model's "
            f"({', '.join(known) or 'it is not in use here'}), but it is '{choice}'."
        )
    return next(iter(load_directions(choice).values()))
