"""When a file of weights that is in memory has to be read again."""

from __future__ import annotations

from pathlib import Path

from ..errors import PIDiffError


def file_version(path: str) -> tuple[int, int]:
    """The file's size in bytes and the time of its last change in ns; PIDiffError where it cannot be read."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise PIDiffError(f"Cannot read {path}: {error.strerror or error}.") from error
    return status.st_size, status.st_mtime_ns
