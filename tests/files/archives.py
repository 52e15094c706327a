"""Damaged archives for the tests."""

from __future__ import annotations

from pathlib import Path


def promise_two_gigabytes(path: Path) -> None:
    """Let the directory of a ZIP archive say that its first part takes 2 GiB."""
    data = bytearray(path.read_bytes())
    packed_size = data.index(b"PK\x01\x02") + 20  # of the first part, in the archive's directory
    data[packed_size : packed_size + 4] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(data)
