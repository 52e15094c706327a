"""The trained parts of the next embedded model (drawn_world/parts), measured on drawn people that they have not seen.

autoencoder  PSNR in dB on photos of the held-out world, and its gradient energy over theirs
codes        traits read from renders, from true w, from the encoder's codes and from the generator's portraits, as in
             `bench.py mini`; dB of the generator from true w

A part that is not there is left out. The last line is one JSON object. Readers are trained at the first run (optional
extra `train`; about nine minutes) and kept in training_runs/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import environment
from benchmarks.mini import HELD_OUT_SEED
from benchmarks.mini_measures import gradient_energy, measured_codes, psnr
from benchmarks.mini_studio import as_bchw, drawn


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=Path, default=None, help="their folder (default: drawn_world/parts)")
    parser.add_argument("--pictures", type=int, default=100, help="renders for the autoencoder")
    parser.add_argument("--probed", type=int, default=1200, help="renders that the linear probes are fitted on")
    parser.add_argument(
        "--readers", type=Path, default=environment.ROOT / "training_runs", help="where the trained readers are kept"
    )
    options = parser.parse_args(arguments)
    report = measure(options)
    for name, row in report.items():
        print(f"{name:12}  " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps(report))
    return 0


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    import torch

    from drawn_world.autoencoder import MiniAutoencoder
    from drawn_world.parts import PARTS, take_part
    from drawn_world.portraits import ENCODER, Painter
    from drawn_world.readers import trained_readers
    from pidiff_core.e4e.encoder import E4eEncoder

    folder = options.parts or PARTS
    report: dict[str, dict[str, float]] = {}
    autoencoder, painter, encoder = MiniAutoencoder(), Painter(), E4eEncoder(ENCODER)
    with torch.no_grad():
        if take_part("autoencoder", autoencoder, folder=folder):
            report["autoencoder"] = _autoencoder(autoencoder.eval(), options.pictures)
        if take_part("generator", painter, folder=folder) and take_part("encoder", encoder, folder=folder):
            encoder.eval()  # its offsets are codes less a constant, which no measure sees
            report |= measured_codes(
                painter.eval().generator,
                encoder,
                trained_readers(options.readers),
                seed=HELD_OUT_SEED + 1,
                fitted=options.probed,
            )
    return report


def _autoencoder(autoencoder: Any, pictures: int) -> dict[str, float]:
    import torch

    from drawn_world.data import World

    world = World(seed=HELD_OUT_SEED, people=pictures, scenes=1)
    renders = torch.stack([drawn(world.person(i), world.scene(i, medium="photo"))[0] for i in range(pictures)])
    images = as_bchw(renders)
    shown = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in images.split(20)]).clamp(-1, 1)
    return {
        "db": psnr(shown, images, span=2),
        "gradient_energy": gradient_energy(shown) / gradient_energy(images),
    }
