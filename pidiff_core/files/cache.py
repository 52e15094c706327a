"""What was read from files, shared while it is held; which files passed a check; how a changed file is noticed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from weakref import WeakValueDictionary

import torch

from ..errors import PIDiffError

_T = TypeVar("_T")
FileIdentity = tuple[int, int]
"""A file's size in bytes and the time of its last change in ns: a file with another identity is read again."""

_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_lock = threading.RLock()
_passed: dict[tuple[str, Path], tuple[int, ...]] = {}  # by role and path: the content that passed the check last
_SETTLED_S = 3.0  # file systems count time in steps of up to 2 s: a younger file may change and keep its times


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """The identity of the file that is there now.

    Raises:
        PIDiffError: the file cannot be read.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PIDiffError(
            f"Cannot read {path}: {getattr(error, 'strerror', None) or error}. Check the path."
        ) from error
    return status.st_size, status.st_mtime_ns


def shared(key: Hashable, make: Callable[[], _T]) -> _T:
    """The object of this key: made once, and the same for every caller for as long as any of them holds it."""
    with _lock:
        made = _shared.get(key)
        if made is None:
            with torch.inference_mode(False):  # others may want gradients through the same weights
                made = _shared[key] = make()
        return made


def shared_file(path: str | os.PathLike[str], role: str, read: Callable[[Path], _T]) -> _T:
    """What `read` makes of a file in this role, read once until the file changes; see `shared`.

    Raises:
        PIDiffError: the file cannot be read.
    """
    path = Path(path)
    return shared((role, path.resolve(), file_identity(path)), lambda: read(path))


def check_once(path: Path, file: BinaryIO, role: str, check: Callable[[], None]) -> None:
    """Run a check of a file's content, unless this process has seen the same content pass it.

    The same content: the same size, inode, and times of the last change of content and of status. They are read from
    the open file, so that another file under this name is checked, also one that was given the old one's times.

    Args:
        path: the file's name.
        file: the open file that is checked and then read.
        role: what is checked.
        check: raises if the file does not pass.
    """
    status = os.fstat(file.fileno())
    content = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
    key = role, path.absolute()
    if _passed.get(key) == content:
        return
    check()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_S * 1e9:
        _passed[key] = content
