"""Benchmarks, run as `python scripts/bench.py NAME`: every figure that the documentation publishes."""
