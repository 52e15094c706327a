"""Weights that were copied out of a mapped file: their pages are given back at once, not when the last of them is read.

Pages of a mapping count as the process's memory from the first touch until the whole file is unmapped. Without this, a
network of a gigabyte takes two while it is read.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

from torch import Tensor

_MIN_BYTES = 1 << 16  # small tensors share their pages with neighbours, and are not worth a system call
_DONT_NEED = 4  # MADV_DONTNEED of Linux: elsewhere the advice means other things


class MappedFiles:
    """The private file mappings that this process has at the time of construction; none where that cannot be known."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        if sys.platform != "linux":
            return
        try:
            lines = Path("/proc/self/maps").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            addresses, flags, _, _, inode, *_ = line.split(maxsplit=5)
            if flags.endswith("p") and inode != "0":
                start, end = (int(address, 16) for address in addresses.split("-"))
                self._ranges.append((start, end))

    def release(self, tensor: Tensor) -> None:
        """Give back the pages that this tensor alone occupies, if it lies in a mapped file.

        Reading it again reads the file again. Call it only for what was not written to: changes would be forgotten.
        """
        size = tensor.numel() * tensor.element_size()
        if size < _MIN_BYTES or not tensor.is_cpu or not tensor.is_contiguous():
            return
        start, end = tensor.data_ptr(), tensor.data_ptr() + size
        if not any(first <= start and end <= last for first, last in self._ranges):
            return
        start += -start % mmap.PAGESIZE
        end -= end % mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
