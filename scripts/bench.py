"""Benchmarks: `python scripts/bench.py NAME [options]`; the last line of each is one JSON object.

adapter   time and memory of an identity while sampling, beside other packs' arithmetic
encode    the published encoder from its file to the codes: time and memory, beside the reference's way
mini      likeness of the embedded model, measured by its judge on held-out drawn people

`python scripts/bench.py NAME --help` lists a benchmark's options.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import environment

BENCHMARKS = ("adapter", "encode", "mini")


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS)
    options = parser.parse_args(sys.argv[1:2])  # the rest is the benchmark's own, its --help too
    return importlib.import_module(f"bench_{options.name}").main(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
