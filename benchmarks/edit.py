"""The sliders of StyleEdit: time of one live portrait, and the measured range of each of mini's directions.

time    one portrait after a change, for mini and for a generator of 1024 px with random weights, stopped at the sizes
        that the panel chooses from. Median of wall-clock times.
reach   of each direction of mini: steps of a clear change, steps at which the range ends, and its level.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pidiff_core.mini.bundle import load_identity
from pidiff_core.stylegan2.config import PRESETS
from pidiff_core.stylegan2.generator import Generator
from pidiff_core.wplus.calibration import measure_reach, typical_distance
from pidiff_core.wplus.codes import WPlus
from pidiff_core.wplus.directions import Direction

SIZES_PX = (32, 64, 128, 256)  # as in nodes/host/edit_preview.py
MEASURED_PX = 64


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py edit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="portraits of each kind")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seed", type=int, default=0, help="of the random generator")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_identity()
    assert isinstance(model.generator, Generator)
    torch.manual_seed(options.seed)
    large = Generator(PRESETS["ffhq-1024"]).shortened(SIZES_PX[-1])
    report: dict[str, object] = {"threads": options.threads, "repeats": options.repeats, "seed": options.seed}
    for name, generator in (("mini", model.generator), ("1024", large)):
        codes = torch.randn(1, generator.config.num_styles, generator.config.width)
        for size_px in SIZES_PX:
            if size_px <= generator.config.size:
                taken = median_s(generator, codes, size_px=size_px, repeats=options.repeats)
                report[f"{name}_{size_px}px_s"] = round(taken, 4)
    reach = reaches()
    print(f"{'direction':<22}{'level':<8}{'unit':>8}{'most':>8}")
    for name, found in reach.items():
        print(f"{name:<22}" + (f"{found[0]:<8}{found[1]:>8.2f}{found[2]:>8.2f}" if found else "changes too little"))
    print(json.dumps(report | {"reach": reach}))
    return 0


def median_s(generator: Generator, codes: Tensor, *, size_px: int, repeats: int) -> float:
    """Seconds of one portrait."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            generator.synthesis(codes, size_px=size_px)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def reaches() -> dict[str, tuple[str, float, float] | None]:
    """Of each direction of mini: (level, unit, most), or None if it is not offered."""
    model = load_identity()
    generator, average = model.generator, model.require_average()
    assert isinstance(generator, Generator)
    draw: Callable[[Tensor], Tensor] = torch.no_grad()(lambda codes: generator.synthesis(codes, size_px=MEASURED_PX))
    typical = typical_distance(generator.mapping, generator.config.z_dim)
    person = WPlus(average[None], average, model.space)
    found: dict[str, tuple[str, float, float] | None] = {}
    for name, vector in sorted(model.directions.items()):
        reach = measure_reach(Direction(name, vector, model.space), person, draw=draw, typical=typical)
        found[name] = None if reach is None else (reach.level, round(reach.unit, 3), round(reach.most, 3))
    return found
