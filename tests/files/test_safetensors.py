"""The reader of safetensors files: what the library writes, bit by bit; headers that make no sense are errors."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pidiff_core.errors import PIDiffError
from pidiff_core.files.safetensors import SafetensorsFile

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back_bit_by_bit(tmp_path, dtype):
    tensors = {
        "net.a": torch.arange(6).reshape(2, 3).to(dtype), "net.b": torch.ones((), dtype=dtype),
        "other": torch.ones(0, 4, dtype=dtype),
    }  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", metadata={"who": "me"})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert file.metadata == {"who": "me"}
    assert {key: (value.shape, value.dtype, value.is_meta) for key, value in file.shapes("net.").items()} == {
        "a": ((2, 3), dtype, True),
        "b": ((), dtype, True),
    }
    for key, tensor in tensors.items():
        read = file.read(key)
        assert read.dtype == dtype
        assert torch.equal(read.float(), tensor.float())
    assert set(file.tensors("net.")) == {"a", "b"}
    read = file.read("net.a")
    read.zero_()  # its own memory, not the file's
    assert not torch.equal(file.read("net.a").float(), read.float())


def written(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry("F4", (2,), (0, 1))}, r"'a' in the data type 'F4', which PIDiff cannot read"),
        ({"a": entry(shape=(3,), offsets=(0, 12))}, "cut short"),
        ({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, "cut short"),
        ({"a": entry(shape=(2,))}, "cut short"),
        ({"a": entry(shape=(-1,), offsets=(0, -4))}, "not whole numbers"),
        ({"a": entry(shape=(1.5,))}, "not whole numbers"),
        ({"a": entry(shape=[1] * 100)}, "cut short"),
        ({"a": entry(offsets=(4, 0))}, "cut short"),
        ({"a": 1}, "does not describe 'a'"),
        ({"a": {"dtype": "F32"}}, "does not describe 'a'"),
        ({"a": entry([1])}, "cannot read"),
        ([1], "header is not a JSON object"),
        ({"__metadata__": {"a": 1}}, "metadata is not text"),
        ({"__metadata__": 1}, "metadata is not text"),
        (b"{" + b"[" * 100_000, "not a whole safetensors file"),
        (b"{\xff", "not a whole safetensors file"),
        ({"\ud83d": 1}, r"does not describe '\\ud83d'"),
    ],
)
def test_headers_that_make_no_sense_are_refused(tmp_path, header, message):
    with pytest.raises(PIDiffError, match=message) as caught:
        SafetensorsFile(written(tmp_path / "a.safetensors", header, bytes(4)))
    str(caught.value).encode()  # no lone surrogates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\xff" * 20, "header should be"),
        (b"{", "not a whole safetensors file"),
        (b"", "empty file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(PIDiffError, match=message) as caught:
        SafetensorsFile(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [lambda path: os.truncate(path, 100), lambda path: path.unlink(), lambda path: path.write_bytes(bytes(9000))],
    ids=["cut", "gone", "replaced"],
)
def test_a_file_that_changes_after_it_was_opened_is_an_error(tmp_path, change):
    save_file({"a": torch.ones(2000)}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    change(tmp_path / "a.safetensors")
    with pytest.raises(PIDiffError, match=r"a\.safetensors (has changed|is not a whole)"):
        file.read("a")
