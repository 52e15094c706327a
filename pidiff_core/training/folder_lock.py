"""One run in one folder: a lock that the operating system releases, however the run ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import PIDiffError

LOCK_FILE = ".pidiff.lock"
_held: set[IO[str]] = set()


def _let_go() -> None:
    """In a forked process: a lock belongs to the open file, and would outlive its run as long as a copy is open."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def folder_lock(folder: str | os.PathLike[str], *, what: str) -> Iterator[None]:
    """Hold the folder for this process; it is made if it does not exist.

    The lock belongs to an open file, so that a killed run leaves nothing to clean up.

    Args:
        folder: where the run writes.
        what: the command, for the error of the second run ("prepare", "train").

    Raises:
        PIDiffError: another run works in this folder, or it cannot be written.
    """
    path = Path(folder) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise PIDiffError(f"Cannot write into {folder} ({error.strerror or error}). Check the folder.") from error
    with file:
        if not _lock(file):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise PIDiffError(
                f"Another run works in {folder} ({owner}). Wait until it has ended, or give this run a folder of its "
                "own."
            )
        file.truncate(0)
        file.write(f"pidiff {what}, process {os.getpid()}")
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def _lock(file: IO[str]) -> bool:
    """Whether the lock was free."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 20)  # a byte behind the text, so that others can read who holds it
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
