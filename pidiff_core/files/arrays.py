"""Arrays of numpy, .npy and .npz: real numbers are read, and nothing else that numpy can hold."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
import zlib

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ..errors import PIDiffError, first_line, passes_through
from .recognise import existing_file

_MOST_BYTES = 128 << 20  # of a file: 3,500 codes of 18 styles; as float32 they may take four times as much
_MOST_ARRAYS = 1000  # in one .npz


def load_array(path: str | os.PathLike[str]) -> Tensor:
    """Read a .npy array of integers or real numbers as a float32 tensor.

    Raises:
        PIDiffError: missing, cut short, larger than 128 MB, or another type of numbers.
    """
    path = existing_file(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PIDiffError(f"{path} has more bytes than W+ codes need. Save the codes alone.")
        return _array(path.read_bytes(), name=str(path))
    except OSError as error:
        raise PIDiffError(f"Cannot read {path}: {error.strerror or error}.") from error


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a .npz archive of arrays as float32 tensors by name.

    Raises:
        PIDiffError: as `load_array`, or a damaged archive.
    """
    path = existing_file(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ARRAYS or sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise PIDiffError(f"{path} unpacks to more than W+ codes need. Save the codes alone.")
            if any(entry.compress_size > path.stat().st_size for entry in entries):
                raise ValueError("a part of it is longer than the file")  # zipfile would take memory for all of it
            for entry in entries:
                with archive.open(entry) as file:
                    content = file.read(entry.file_size + 1)
                name = entry.filename.removesuffix(".npy")
                arrays[name] = _array(content, name=f"{name} in {path}")
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise PIDiffError(f"{path} is a damaged .npz archive ({first_line(error)}). Save it again.") from error
    return arrays


def _array(content: bytes, *, name: str) -> Tensor:
    """The array in these bytes. Its header is checked against them before memory is taken."""
    file = io.BytesIO(content)  # of a real file, numpy would take the memory that a header asks for
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as: a field was repeated
            shape, fortran_order, dtype = read_header(file)
        if dtype.kind in "fiu" and not dtype.hasobject:
            if min(shape, default=0) < 0:
                raise ValueError("a negative size")
            count = math.prod(shape)
            if count * dtype.itemsize > len(content) - file.tell():
                raise ValueError(f"its header promises {count * dtype.itemsize} bytes")
            flat = np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype)
            array = flat.reshape(shape, order="F" if fortran_order else "C")
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused later
                return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    except Exception as error:  # numpy's reader raises nearly every built-in kind on damaged headers
        if passes_through(error):
            raise
        raise PIDiffError(
            f"{name} is not a .npy array of numbers, or it is cut short ({first_line(error)})."
        ) from error
    raise PIDiffError(f"{name} is not a .npy array of integers or real numbers: its type is {dtype}.")
