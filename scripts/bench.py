"""Benchmarks: `python scripts/bench.py NAME [options]`; the last line of each is one JSON object.

mini    likeness of the embedded model, measured by its judge on held-out drawn people
"""

from __future__ import annotations

import argparse
import importlib

import environment

BENCHMARKS = ("mini",)


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("name", choices=BENCHMARKS)
    options, rest = parser.parse_known_args()
    return importlib.import_module(f"bench_{options.name}").main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
