"""Draw the loss curves of a training run: `python scripts/plot_curves.py RUN OUT` (CSV copies and one SVG)."""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import environment

STAGES = ("autoencoder", "base", "generator", "encoder", "detector", "judge", "extract", "localise")
WIDTH, HEIGHT, MARGIN = 260, 130, 28


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    panels = []
    for stage in STAGES:
        source = options.run / stage / "curve.csv"
        if source.exists():
            shutil.copyfile(source, options.out / f"{stage}.csv")
            with source.open() as file:
                rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
            panels.append(panel(stage, rows, column=len(panels) % 4, row=len(panels) // 4))
    width, height = 4 * (WIDTH + MARGIN) + MARGIN, -(-len(panels) // 4) * (HEIGHT + 2 * MARGIN) + MARGIN
    body = "\n".join(panels)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    (options.out / "curves.svg").write_text(f'{svg}\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')
    environment.say(f"{options.out / 'curves.svg'}")
    return 0


def panel(stage: str, rows: list[tuple[int, float]], *, column: int, row: int) -> str:
    """One stage's loss over its steps, with the range at the corners."""
    left, top = MARGIN + column * (WIDTH + MARGIN), MARGIN + row * (HEIGHT + 2 * MARGIN)
    steps, losses = zip(*rows)
    low, high = min(losses), max(losses)
    points = " ".join(
        f"{left + WIDTH * step / steps[-1]:.1f},{top + HEIGHT * (high - loss) / (high - low or 1):.1f}"
        for step, loss in rows
    )
    return (
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>'
        f'<polyline points="{points}" fill="none" stroke="#3a6ea5" stroke-width="1.5"/>'
        f'<text x="{left}" y="{top - 6}" font-size="13">{stage}: {high:.3g} to {losses[-1]:.3g}</text>'
        f'<text x="{left + WIDTH}" y="{top + HEIGHT + 15}" font-size="11" text-anchor="end">{steps[-1]} steps</text>'
    )


if __name__ == "__main__":
    raise SystemExit(main())
