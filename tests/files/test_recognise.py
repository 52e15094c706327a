"""Files are told apart by their content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pidiff_core.errors import PIDiffError
from pidiff_core.files.recognise import existing_file, file_kind


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "pickle", "old pickle"])
def test_a_file_is_known_by_its_content(tmp_path, kind):
    path = tmp_path / "codes.anything"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, w=np.ones(3))
    elif kind == "safetensors":
        save_file({"a": torch.ones(1)}, path)
    else:
        torch.save(torch.ones(1), path, _use_new_zipfile_serialization=kind == "pickle")
    assert file_kind(path) == kind.split()[-1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"hello", b"\x93NUM"])
def test_what_is_unknown_goes_to_the_reader_that_explains(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert file_kind(tmp_path / "a") == "pickle"
    assert file_kind(tmp_path / "missing") == "pickle"


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "missing", "\udcff"])
def test_names_that_no_file_has_are_an_error(tmp_path, name):
    with pytest.raises(PIDiffError, match="Cannot read") as caught:
        existing_file(tmp_path / name)
    str(caught.value).encode()
