"""What mini's directions and level swaps change in portraits, read by networks that were trained on exact labels.

Held-out drawn people are encoded, edited, and drawn by the generator. For each direction that StyleEdit offers, over
seven amounts from one end of its range to the other:

own        the attribute that the direction is for
spearman   rank correlation of amount and own attribute, mean of the people; in brackets of the people's mean
effect     change of the own attribute from end to end: 1 is the whole range of a number, or from one value to another
others     largest effect on any other attribute, over the own effect; and which attribute that is

For each level, swapped with that of another person: the share of the difference between the two people that moves with
the level, for each attribute. 0: nothing moves; 1: all of it. *read* is how well the readers read renders of people:
correlation with the truth of a number, share of right values of a choice.

With --likeness, each direction is also applied at the slider's 1, and the people are drawn in a real ComfyUI:

recognised the share of pictures in which the judge of `bench.py mini` picks the right person, and their mean similarity
           to renders of the person; *no edit* for comparison

Readers are trained at the first run (optional extra `train`; about nine minutes) and kept in training_runs/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import environment
from benchmarks.edit import reaches
from benchmarks.mini import HELD_OUT_SEED
from benchmarks.mini_measures import white_crops
from pidiff_core.mini.bundle import load_identity
from pidiff_core.pipeline import decode, encode
from pidiff_core.wplus.codes import LEVELS, WPlus
from pidiff_core.wplus.directions import Direction, apply_direction, mix_levels

AMOUNTS = 7
# An attribute that has no value without another one: reading it then is chance.
PARTS_OF = {"glasses": "glasses_colour"}
Reading = Mapping[str, Tensor]  # attribute -> (B, 1) numbers, or (B, n) probabilities of its values


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py directions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, default=50, help="held-out drawn people, at least two")
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: torch's)")
    parser.add_argument(
        "--readers", type=Path, default=environment.ROOT / "training_runs", help="where the trained readers are kept"
    )
    parser.add_argument("--likeness", action="store_true", help="also draw pictures of the edited people in ComfyUI")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of these pictures")
    options = parser.parse_args(arguments)
    from drawn_world.readers import trained_readers

    if options.threads:
        torch.set_num_threads(options.threads)
    readers = trained_readers(options.readers)
    report = measure(options.identities, readers)
    if options.likeness:
        units = {name: reach[1] for name, reach in reaches().items() if reach is not None}
        import comfy_host
        import in_process

        with tempfile.TemporaryDirectory() as folder:
            in_process.import_comfy(comfy_host.DEFAULT, Path(folder))
            pack = in_process.load_pack()
            report["likeness"] = likeness(pack, options.identities, readers, units, steps=options.steps)
    print(table(report))
    print(json.dumps(report))
    return 0


def measure(identities: int, readers: Any) -> dict[str, Any]:
    """Of the shipped model: `{"identities", "read": {attribute: accuracy}, "directions": {name: row or None}, "swaps":
    {level: {attribute: share}}}`.

    A direction that StyleEdit does not offer, because it changes the portrait too little, has None for its row.
    """
    from drawn_world.data import World
    from drawn_world.portraits import DIRECTIONS
    from drawn_world.readers import read_crops

    model = load_identity()
    world = World(seed=HELD_OUT_SEED, people=identities, scenes=1)
    persons = [world.person(index) for index in range(identities)]
    scenes = [world.scene(index, medium="photo") for index in range(identities)]
    crops = white_crops(persons, scenes)
    people = encode(model, crops)

    def read(wplus: WPlus) -> Reading:
        return readers.read_attributes(read_crops(decode(model, wplus).movedim(-1, 1) * 2 - 1))

    rows: dict[str, Any] = {}
    for name, reach in reaches().items():
        if reach is None:
            rows[name] = None
            continue
        low, high = DIRECTIONS[name]
        (own,) = high
        direction = Direction(name, model.directions[name], model.space)
        rows[name] = direction_row(people, direction, read=read, most=reach[2], own=own, ends=(low[own], high[own]))
    return {
        "identities": identities,
        "read": accuracy(readers.read_attributes(read_crops(crops)), persons, scenes),
        "directions": rows,
        "swaps": swap_shares(people, read=read),
    }


def accuracy(reading: Reading, persons: list[Any], scenes: list[Any]) -> dict[str, float]:
    """Attribute -> correlation with the truth of a number, share of right values of a choice."""
    from drawn_world.readers import correlation, head_targets, trait_targets

    numbers, labels = head_targets(scenes)
    truth = torch.cat([trait_targets(persons), numbers, labels], dim=1)  # in the order of `read_attributes`
    found = {}
    for column, (name, values) in enumerate(reading.items()):
        wanted = truth[:, column]
        if values.shape[1] > 1:
            found[name] = rounded((values.argmax(dim=1) == wanted).float().mean())
        else:
            found[name] = rounded(correlation(values, wanted[:, None])[0])
    return found


def rounded(value: Any) -> float:
    return round(float(value), 3)


def direction_row(
    people: WPlus,
    direction: Direction,
    *,
    read: Callable[[WPlus], Reading],
    most: float,
    own: str,
    ends: tuple[float | str, float | str],
) -> dict[str, Any]:
    """What a direction does between -most and most.

    read: portraits' attributes. own: the attribute that it is for, and what `ends` of it the direction leads between.
    """
    amounts = torch.linspace(-most, most, AMOUNTS).tolist()
    readings = [read(apply_direction(people, direction, amount=amount)) for amount in amounts]
    scores = torch.stack([own_score(reading[own], own, ends) for reading in readings], dim=1)
    ranks = torch.arange(float(AMOUNTS))
    effects = {name: effect(readings[0][name], readings[-1][name]) for name in readings[0]}
    others = {name: value for name, value in effects.items() if name not in (own, PARTS_OF.get(own))}
    most_other = max(others, key=lambda name: others[name])
    return {
        "own": own,
        "spearman": rounded(sum(spearman(row, ranks) for row in scores) / len(scores)),
        "spearman_of_mean": rounded(spearman(scores.mean(dim=0), ranks)),
        "effect": rounded(effects[own]),
        "others": rounded(others[most_other] / max(effects[own], 1e-6)),
        "most_other": most_other,
    }


def own_score(reading: Tensor, attribute: str, ends: tuple[float | str, float | str]) -> Tensor:
    """(B,): what should grow with the amount: the number, or how much more likely the high value is than the low."""
    from drawn_world.readers import ATTRIBUTE_VALUES

    if reading.shape[1] == 1:
        return reading[:, 0]
    low, high = (ATTRIBUTE_VALUES[attribute].index(end) for end in ends)
    return reading[:, high] - reading[:, low]


def effect(before: Tensor, after: Tensor) -> float:
    """Change of the people's mean: of numbers, as a part of [-1, 1]; of choices, total variation."""
    return float((after.mean(dim=0) - before.mean(dim=0)).abs().sum()) / 2


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two rows (n,); equal values share their mean rank. 0 if one is constant."""
    ranks = []
    for row in (first, second):
        rank = (row[:, None] > row).double().sum(dim=1) + 0.5 * (row[:, None] == row).double().sum(dim=1)
        ranks.append(rank - rank.mean())
    norm = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else 0.0


def swap_shares(people: WPlus, *, read: Callable[[WPlus], Reading]) -> dict[str, dict[str, float]]:
    """Level -> attribute -> share of the difference to the other person that its swap moves. Each takes the next's."""
    others = people.with_codes(people.codes.roll(-1, dims=0))
    own = read(people)
    shares: dict[str, dict[str, float]] = {}
    for level in LEVELS:
        mixed = read(mix_levels(people, others, levels=[level]))
        shares[level] = {
            name: rounded(moved_share(own[name], own[name].roll(-1, dims=0), mixed[name])) for name in sorted(own)
        }
    return shares


def moved_share(own: Tensor, other: Tensor, mixed: Tensor) -> float:
    """Least squares, over people: mixed - own = share (other - own)."""
    apart = other - own
    return float(((mixed - own) * apart).sum() / apart.square().sum().clamp_min(1e-12))


NO_EDIT = "no edit"


@torch.no_grad()
def likeness(
    pack: Any, identities: int, readers: Any, units: Mapping[str, float], *, steps: int
) -> dict[str, dict[str, float]]:
    """Direction, or NO_EDIT -> share of recognised people and mean similarity in pictures of ComfyUI.

    pack: as loaded into ComfyUI in this process. units: steps of each direction.
    """
    from benchmarks.mini import Measure
    from benchmarks.mini_studio import PROMPTS, Studio, as_bchw

    options = argparse.Namespace(identities=identities, seed=0, steps=steps, cfg=3.0, strength=1.0, preset="portrait")
    directions = pack.load("pidiff_core.wplus.directions")
    studio = Studio(pack, options)
    measured = Measure(studio, readers, options)
    renders = measured.rendered(measured.people)
    gallery = measured.gallery(renders)
    codes = studio.encoded(renders[:, 0])
    found = {}
    for name, unit in {NO_EDIT: 0.0, **units}.items():
        edited = codes
        if name != NO_EDIT:
            direction = directions.Direction(name, studio.pidiff_model.directions[name], codes.space)
            edited = directions.apply_direction(codes, direction, amount=unit)
        images, _ = studio.sample(studio.applied(edited), PROMPTS[0], count=identities)
        right, _ = measured.jury.recognised(as_bchw(images), gallery)
        similar = measured.jury.likeness(as_bchw(images), gallery)
        found[name] = {"recognised": rounded(right.float().mean()), "similarity": rounded(similar.mean())}
    return found


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    lines = ["| direction | own attribute | Spearman | effect | others | most on |", "|---|---|---|---|---|---|"]
    for name, row in report["directions"].items():
        if row is None:
            lines.append(f"| {name} | - | not offered: changes too little | - | - | - |")
        else:
            lines.append(
                f"| {name} | {row['own']} | {row['spearman']:.2f} ({row['spearman_of_mean']:.2f}) | "
                f"{row['effect']:.2f} | {row['others']:.2f} | {row['most_other']} |"
            )
    swaps = report["swaps"]
    lines += ["", f"| attribute | {' | '.join(swaps)} | read |", "|---|" + "---|" * (len(swaps) + 1)]
    for name, read in report["read"].items():
        moved = " | ".join(f"{shares[name]:.2f}" for shares in swaps.values())
        lines.append(f"| {name} | {moved} | {read:.2f} |")
    if "likeness" in report:
        lines += ["", "| direction at 1 | recognised | similarity |", "|---|---|---|"]
        for name, row in report["likeness"].items():
            lines.append(f"| {name} | {row['recognised']:.2f} | {row['similarity']:.3f} |")
    return "\n".join(lines)
