"""PIDiff's own container: what is written comes back, and every other file is an error that names it."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pidiff_core.errors import PIDiffError
from pidiff_core.files.container import open_container, read_container, write_container, write_new_container


def test_tensors_and_configuration_come_back(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    shared = torch.randn(4, 4)
    tensors = {"a": shared, "b": shared[:2], "c": shared.t(), "half": shared.half(), "empty": torch.ones(0, 3)}
    write_container(path, tensors, kind="test", config={"channels": [1, 2], "name": "é"})
    loaded, config = read_container(path, kind="test")
    assert config == {"kind": "test", "channels": [1, 2], "name": "é"}
    assert all(
        torch.equal(loaded[key], tensor) and loaded[key].dtype == tensor.dtype for key, tensor in tensors.items()
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_container(path, {"a": torch.ones(1)}, kind="test", config={})
    with pytest.raises(TypeError):
        write_container(path, {"a": torch.zeros(1)}, kind="test", config={"bad": object()})
    assert read_container(path, kind="test")[0]["a"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_container_never_replaces_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    assert write_new_container(path, {"a": torch.ones(1)}, kind="test", config={})
    assert not write_new_container(path, {"a": torch.zeros(1)}, kind="test", config={})
    assert read_container(path, kind="test")[0]["a"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def broken(path, kind):
    if kind == "foreign":
        save_file({"weight": torch.ones(2)}, path)
    elif kind == "bad json":
        save_file({"weight": torch.ones(2)}, path, metadata={"pidiff": "{"})
    elif kind == "endless json":
        save_file({"weight": torch.ones(2)}, path, metadata={"pidiff": "[" * 100_000})
    elif kind == "list":
        save_file({"weight": torch.ones(2)}, path, metadata={"pidiff": "[1]"})
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("foreign", "not one of PIDiff's"),
        ("bad json", "cannot be read"),
        ("endless json", "cannot be read"),
        ("list", "is not a JSON object but a list"),
        ("folder", "is a folder"),
        ("missing", "Cannot read"),
    ],
)
def test_other_files_are_named_and_refused(tmp_path, kind, message):
    path = tmp_path / "model.safetensors"
    broken(path, kind)
    with pytest.raises(PIDiffError, match=message) as caught:
        read_container(path, kind="test")
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("adapter", r"holds an identity adapter, but W\+ codes was expected here\. Choose it as the adapter in Load"),
        ("networks", r"holds an encoder or a generator, but .* Choose it as the encoder"),
        ("other", r"holds 'other', but W\+ codes was expected"),
    ],
)
def test_a_file_of_another_kind_says_where_it_belongs(tmp_path, found, message):
    write_container(tmp_path / "a.safetensors", {"a": torch.ones(1)}, kind=found, config={})
    with pytest.raises(PIDiffError, match=message):
        read_container(tmp_path / "a.safetensors", kind="codes")


@pytest.mark.parametrize(
    "part",
    [
        {"encoder": {"image_size": 2**300}},
        {"generator": {"mapping_lr_mul": float("inf")}},
        {"generator": {"mapping_lr_mul": float("nan")}},
        {"space": {"num_styles": -(10**9)}},
        {"adapter": {"sites": [["input.0.0", 8, 2]] * 20_000}},
        {"adapter": {"sites": [["input.0.0", 8, 10**9]]}},
    ],
    ids=["exabytes", "infinite", "NaN", "negative", "too many", "inside a list"],
)
def test_sizes_that_no_network_has_are_refused_before_anything_is_built(tmp_path, part):
    write_container(tmp_path / "a.safetensors", {"a": torch.ones(1)}, kind="test", config=part)
    with pytest.raises(PIDiffError, match=r"in the configuration of .*a\.safetensors asks for"):
        open_container(tmp_path / "a.safetensors", kind="test")


def test_text_of_users_may_hold_anything(tmp_path):
    write_container(tmp_path / "a.safetensors", {"a": torch.ones(1)}, kind="test", config={"source": "half \ud83d"})
    assert read_container(tmp_path / "a.safetensors", kind="test")[1]["source"] == "half \ud83d"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    write_container(tmp_path / "ours.safetensors", {"x": torch.zeros(1)}, kind="test", config={})
    (tmp_path / "other").touch()
    assert (tmp_path / "ours.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_metadata_is_what_other_programs_read(tmp_path):
    from safetensors import safe_open

    write_container(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, kind="test", config={"n": 1})
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["pidiff"]) == {"kind": "test", "n": 1}
