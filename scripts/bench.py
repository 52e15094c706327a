"""Benchmarks: `python scripts/bench.py NAME [options]`; the last line of each is one JSON object.

adapter     time and memory of an identity while sampling, compared with other packs' arithmetic
directions  what the embedded model's directions and level swaps change, by networks trained on exact labels
edit        the sliders of StyleEdit: time of a live portrait, range of each direction
encode      the published encoder, from the file to the codes: time and memory, compared with the reference code
faces       the search for faces: pictures without a face that pass as one, faces that are missed
files       photo files to an adapter in ComfyUI, compared with the embedded adapter
mini        likeness of the embedded model, measured by its judge on held-out drawn people
parts       trained parts of the next embedded model, on people that they have not seen
prepare     photos to prepared data, compared with the sum of its parts
train       a training step and its memory, compared with W+ Adapter's published step

`python scripts/bench.py NAME --help` lists a benchmark's options.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import environment

BENCHMARKS = ("adapter", "directions", "edit", "encode", "faces", "files", "mini", "parts", "prepare", "train")


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS)
    options = parser.parse_args(sys.argv[1:2])  # the rest is the benchmark's own, its --help too
    # At the end of the path: in front, the checkout's nodes/ would hide ComfyUI's own nodes.py.
    sys.path.append(str(environment.ROOT))
    return importlib.import_module(f"benchmarks.{options.name}").main(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
