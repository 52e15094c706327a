"""Arrays of other tools (.npy): real numbers are read, everything else that numpy can hold is an error."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.files.arrays import load_array, load_arrays
from tests.files.archives import promise_two_gigabytes


class RunsCode:
    """A pickle of this creates the folder that it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "u1", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_every_size_are_read(tmp_path, dtype, order):
    numbers = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "good.npy", np.asarray(numbers, dtype=dtype, order=order))
    read = load_array(tmp_path / "good.npy")
    assert read.dtype == torch.float32
    assert read.tolist() == numbers.tolist()
    read += 1  # its own memory, not the file's


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([RunsCode(str(tmp_path / "ran"))], dtype=object), allow_pickle=True)
    with pytest.raises(PIDiffError, match=r"not a \.npy array of .*its type is object"):
        load_array(tmp_path / "bad.npy")
    assert not (tmp_path / "ran").exists()


def npy(header):
    """A .npy of this header, with twelve bytes behind it."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(3, dtype=np.complex64), "its type is complex64"),
        (np.array(["2024-01-01"], dtype="datetime64[D]"), "its type is datetime64"),
        (np.array([1], dtype="timedelta64[s]"), "its type is timedelta64"),
        (np.ones(3, dtype=bool), "its type is bool"),
        (np.array(["a"]), "its type is <U1"),
        (np.ones(3, dtype=[("a", "f4"), ("b", "i4")]), "its type is"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"), "cut short"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 10**9), }"), "cut short"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 9000000000, 9000000000), }"), "cut short"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"), "cut short"),
        (npy("{'descr': [('a',)], 'fortran_order': False, 'shape': (3,), }"), "cut short"),
        (npy("[" * 9000), "cut short"),
        (b"\x93NUMPY\x01", "cut short"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xbf" + bytes(100), "cut short"),
    ],
    ids=[
        "complex",
        "dates",
        "spans",
        "bool",
        "text",
        "fields",
        "terabytes",
        "exabytes",
        "overflow",
        "negative",
        "odd type",
        "nested",
        "cut",
        "header of 3 GB",
    ],
)
def test_arrays_that_are_no_real_numbers_are_refused(tmp_path, content, message):
    path = tmp_path / "odd.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(PIDiffError, match=rf"odd\.npy is not a \.npy array .*{message}"):
        load_array(path)


def test_a_part_that_promises_more_than_the_file_takes_no_memory(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, w=np.ones((8, 6)))
    promise_two_gigabytes(path)
    tracemalloc.start()
    try:
        with pytest.raises(PIDiffError, match=r"damaged .npz archive.*longer than the file"):
            load_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
