"""Atomic writes: a file is written under a temporary name in the target's folder, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ..errors import PIDiffError

_LEFTOVER = re.compile(r"\.pidiff-(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]{12}\.tmp")
_DEAD_AFTER_S = 24 * 3600.0  # without a change: for processes that cannot be asked, such as another machine's


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], None], *, only_if_new: bool = False) -> bool:
    """Write a file so that it is never seen half written.

    Args:
        path: its name; its folder is made.
        write: called with the temporary path that it is to fill.
        only_if_new: leave a file that has this name already alone. Of several processes that ask for one name at the
            same time, exactly one gets it.

    Returns:
        Whether the file was written.

    Raises:
        PIDiffError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".pidiff-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode & 0o777  # what the user's umask allows: some writers would make it 0600
            write(temporary)
            temporary.chmod(mode)
            if only_if_new:
                return _rename_if_new(temporary, path)
            temporary.replace(path)
            return True
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PIDiffError(f"Cannot write {path} ({error}). Check the folder and the free space.") from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote, if they are surely dead."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".pidiff-")]
    for name in names:
        remove_if_dead(folder / name)


def remove_if_dead(path: Path) -> None:
    """Delete one such file if its process has ended: a process of this machine, or none that changed it for a day."""
    found = _LEFTOVER.fullmatch(path.name)
    if found is None:
        return
    try:
        dead = time.time() - path.stat().st_mtime > _DEAD_AFTER_S
        if found["machine"] == _machine() and os.name == "posix":
            dead = dead or not _is_running(int(found["process"]))
        if dead:
            path.unlink()
    except OSError:  # another process has just deleted it, or it belongs to another user
        return


def _machine() -> str:
    """This machine among those that share a folder: process numbers mean nothing on another one."""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # on POSIX a question, not a signal
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, and belongs to another user
        return True
    return True


def _rename_if_new(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)  # fails if the name is taken
        return True
    except FileExistsError:
        return False
    except (OSError, NotImplementedError):  # a file system without hard links, such as exFAT and some network drives
        pass
    try:
        path.open("xb").close()  # the name is ours from here on
    except FileExistsError:
        return False
    temporary.replace(path)
    return True
