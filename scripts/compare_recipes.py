"""PIDiff beside its relatives and without each of its parts, on the embedded model: a table and a plot.

Every recipe of `drawn_world/comparison.py` is trained with each seed and measured on people that no network was trained
on. Resumable: stop it and run the same command again. Checkpoints are in DIR; figures are kept in docs/comparison.json,
so that several machines and days can share the work, and docs/comparison.md and docs/comparison.svg are written from
them after each training. About five hours of two CPU cores with AMX.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import environment

ROOT = environment.ROOT
FIGURES = "comparison.json"
STRENGTHS = (0.6, 0.8, 1.0, 1.25)
PROMPT = "a photo of a person in the forest wearing a red shirt"
WANTED = {"place": "forest", "clothes": "red"}
UNSEEN_SEED = 3_000_000  # of the people that are measured
COLUMNS = {
    "similarity": "similarity", "retrieval": "retrieval", "background": "background change",
    "background_at_equal": "background change at equal similarity", "iou": "IoU", "text": "scene and clothes",
}  # fmt: skip


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "training_runs" / "comparison", help="checkpoints, figures")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the table and the plot are written")
    parser.add_argument("--recipes", nargs="*", default=None, help="names of recipes (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each recipe")
    parser.add_argument("--steps", type=int, nargs=2, default=(500, 1200), help="of the first and the second stage")
    parser.add_argument("--people", type=int, default=4000, help="drawn people to train on")
    parser.add_argument("--unseen", type=int, default=50, help="people to measure on")
    parser.add_argument("--sampling-steps", type=int, default=20, help="of the measured pictures")
    parser.add_argument(
        "--readers", type=Path, default=ROOT / "training_runs", help="where the trained readers are kept"
    )
    options = parser.parse_args()
    sys.path.append(str(ROOT))
    from drawn_world.comparison import RECIPES

    known = [recipe.name for recipe in RECIPES]
    chosen = options.recipes or known
    if unknown := sorted(set(chosen) - set(known)):
        parser.error(f"unknown recipes {', '.join(unknown)}: expected some of {', '.join(known)}")
    runs = stored(options)
    for seed in range(options.seeds):  # seed after seed: a stopped comparison has every recipe once
        for recipe in RECIPES:
            if recipe.name in chosen and str(seed) not in runs.get(recipe.name, {}):
                runs.setdefault(recipe.name, {})[str(seed)] = compare(recipe, seed, options)
                keep(runs, options)
    print(table(in_order(runs)))
    return 0


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all figures of one comparison share."""
    from pidiff_core.mini.bundle import BASE, WEIGHTS

    return {
        "base": hashlib.sha256((WEIGHTS / BASE).read_bytes()).hexdigest()[:16],
        "steps": list(options.steps),
        **{name: getattr(options, name) for name in ("people", "unseen", "sampling_steps")},
    }


def stored(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Recipe -> seed -> the figures of a finished training."""
    path = options.docs / FIGURES
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["settings"] != settings(options):
        raise SystemExit(
            f"{path} has figures of other settings, {kept['settings']}: expected {settings(options)}. Move the file "
            "away, or use --docs with another folder."
        )
    return kept["runs"]


def in_order(runs: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Recipe -> figures of its seeds, in the order of the recipes."""
    from drawn_world.comparison import RECIPES

    return {recipe.name: list(runs[recipe.name].values()) for recipe in RECIPES if recipe.name in runs}


def keep(runs: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Write all figures, whole or not at all, and the table and the plot of them."""
    options.docs.mkdir(parents=True, exist_ok=True)
    part = options.docs / f".{FIGURES}.part"
    part.write_text(json.dumps({"settings": settings(options), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    part.replace(options.docs / FIGURES)
    write_docs(in_order(runs), options)


def compare(recipe: Any, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one recipe with one seed: its figures at every strength."""
    folder = options.out / recipe.name.replace(" ", "-") / f"seed-{seed}"
    import torch

    from drawn_world.comparison import comparison_data, recipe_adapter, train_recipe
    from drawn_world.data import World, rendered
    from pidiff_core.mini.bundle import load_identity
    from pidiff_core.training.bases.load import load_base

    environment.say(f"{recipe.name}, seed {seed}")
    base, identity = load_base("mini", dtype=torch.float32, device=torch.device("cpu")), load_identity()
    pictures = rendered(World(seed=1, people=options.people, scenes=3), options.out / "data")
    data = comparison_data(base, identity.encoder, pictures, recipe, folder=options.out / f"prepared-{options.people}")
    adapter = recipe_adapter(base, data, recipe, seed=100 * seed + 8)
    train_recipe(base, data, adapter, folder, steps=tuple(options.steps), seed=seed)
    figures = measure(base, identity, adapter, recipe, options)
    return figures | {"parameters": sum(parameter.numel() for parameter in adapter.parameters())}


def measure(base: Any, identity: Any, adapter: Any, recipe: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Figures at every strength: strength -> similarity, retrieval, background, iou, text."""
    import numpy as np
    import torch

    from drawn_world.bundle import load_judge
    from drawn_world.crops import as_encountered, labelled_crops
    from drawn_world.data import World, rendered
    from drawn_world.likeness import Jury
    from drawn_world.readers import trained_readers
    from pidiff_core.training.diffusers_processor import attach_identity
    from pidiff_core.training.sampling import sample

    readers = trained_readers(options.readers)
    jury = Jury(load_judge(), identity.detector)
    count, scenes = options.unseen, 6
    pictures = rendered(World(seed=UNSEEN_SEED, people=count, scenes=scenes), options.out / "data")
    colour = pictures.in_colour
    with torch.no_grad():
        shown = torch.cat(
            [
                base.decode_latents(base.encode_images(pictures.image_batch(part)))
                for part in np.split(np.arange(count * scenes), count)
            ]
        ).unflatten(0, (count, scenes))
        gallery = jury.gallery(shown[:, 1:5])
        first = np.array(
            [next((i for i in range(k, k + scenes) if colour[i]), k) for k in range(0, count * scenes, scenes)]
        )
        rng = np.random.default_rng(0)
        crops = labelled_crops(pictures, first, rng=rng, jitter=0.03)
        seen = as_encountered(crops, rng=rng) if recipe.background_removed else crops[:, :3]
        tokens = adapter.eval().projection(identity.encoder(seen))
    binding = attach_identity(base.unet, adapter)
    common = {
        "text": base.encode_text([PROMPT] * count), "null_text": base.encode_text([""]), "size_px": (128, 128),
        "seeds": range(count), "steps": options.sampling_steps, "cfg": 3.0,
    }  # fmt: skip
    try:
        plain, _ = sample(base, None, tokens=None, **common)
        figures: dict[str, Any] = {}
        for strength in STRENGTHS:
            drawn, maps = sample(base, binding, tokens=tokens, strength=strength, **common)
            images, before = (one.movedim(-1, 1) * 2 - 1 for one in (drawn, plain))
            labels, heads = readers.read_scenes(images)
            large = torch.nn.functional.interpolate(maps[:, None], heads.shape[-2:], mode="bilinear")[:, 0] > 0.5
            figures[str(strength)] = {
                "similarity": float(jury.likeness(images, gallery).mean()),
                "retrieval": float(jury.recognised(images, gallery)[0].float().mean()),
                "background": float(jury.background_change(images, before).mean()),
                "iou": float(((large & heads).sum((1, 2)) / (large | heads).sum((1, 2)).clamp_min(1)).mean()),
                "text": statistics.mean(label[name] == value for label in labels for name, value in WANTED.items()),
            }
    finally:
        binding.detach()
    return figures


def background_at(figures: dict[str, Any], similarity: float) -> float | None:
    """Background change at the strength that gives this similarity, between measured ones; None if none reaches it."""
    points = [(figures[str(strength)]["similarity"], figures[str(strength)]["background"]) for strength in STRENGTHS]
    for (low, before), (high, after) in pairwise(points):
        if min(low, high) <= similarity <= max(low, high) and low != high:
            return before + (similarity - low) / (high - low) * (after - before)
    return points[0][1] * similarity / points[0][0] if 0 < similarity < points[0][0] else None


def rows_of(figures: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """Recipe -> column -> one value a seed. Equal similarity is what every recipe reaches: the least of their best."""
    best = [
        statistics.mean(max(run[str(s)]["similarity"] for s in STRENGTHS) for run in runs) for runs in figures.values()
    ]
    equal = min(best) if best else 0.0
    rows: dict[str, dict[str, list[float]]] = {}
    for name, runs in figures.items():
        rows[name] = {key: [run["1.0"][key] for run in runs] for key in COLUMNS if key != "background_at_equal"}
        at_equal = [background_at(run, equal) for run in runs]
        rows[name]["background_at_equal"] = [value for value in at_equal if value is not None]
    return rows


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one line a recipe, mean and spread (standard deviation over seeds) of every column."""
    lines = ["| recipe | " + " | ".join(COLUMNS.values()) + " | seeds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in rows_of(figures).items():
        cells = [_mean_and_spread(row[key]) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(figures[name])} |")
    return "\n".join(lines)


def _mean_and_spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def write_docs(figures: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """docs/comparison.md and docs/comparison.svg."""
    from drawn_world.comparison import RECIPES

    meanings = "\n".join(
        f"- *{recipe.name}*: {recipe.meaning or 'as named'}." for recipe in RECIPES if recipe.name in figures
    )
    text = f"""# The recipes compared

Written by `python scripts/compare_recipes.py`. For every recipe: the same frozen base (the embedded model),
{options.people} drawn people, {sum(options.steps)} steps of 32, the same number of parameters; {options.unseen} people
that no network was trained on; one prompt. Mean and standard deviation over seeds, at strength 1.

{table(figures)}

![similarity and background change](comparison.svg)

Each line of the plot is a recipe, from strength {STRENGTHS[0]} to {STRENGTHS[-1]}. Right and down is better.

{meanings}
"""
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "comparison.md").write_text(text, encoding="utf-8")
    (options.docs / "comparison.svg").write_text(plot(figures), encoding="utf-8")


def plot(figures: dict[str, list[dict[str, Any]]]) -> str:
    """SVG: similarity to the right, background change upwards; one line a recipe, the mean over seeds."""
    width, height, edge = 720, 420, 50
    lines = {
        name: [
            tuple(statistics.mean(run[str(s)][key] for run in runs) for key in ("similarity", "background"))
            for s in STRENGTHS
        ]
        for name, runs in figures.items()
    }
    points = [point for line in lines.values() for point in line] or [(0.0, 0.0)]
    right, top = (max(max(values), 1e-6) * 1.1 for values in zip(*points))
    colours = (
        "#1f77b4",
        "#d62728",
        "#2ca02c",
        "#9467bd",
        "#8c564b",
        "#e377c2",
        "#7f7f7f",
        "#bcbd22",
        "#17becf",
        "#ff7f0e",
        "#000000",
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{edge} {edge}V{height - edge}H{width - 180}" fill="none" stroke="black"/>',
        f'<text x="{width / 2 - 120}" y="{height - 12}">similarity (0 to {right:.2f})</text>',
        f'<text x="{edge}" y="{edge - 12}">background change (0 to {top:.3f})</text>',
    ]
    for index, (name, line) in enumerate(lines.items()):
        colour = colours[index % len(colours)]
        places = [
            (edge + max(x, 0) / right * (width - 180 - edge), height - edge - y / top * (height - 2 * edge))
            for x, y in line
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{width - 170}" y="{edge + 18 * index}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    raise SystemExit(main())
