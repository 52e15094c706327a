"""Checkpoints: what is written comes back, and every broken or hostile file is an error that runs nothing."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pidiff_core.checkpoint import (
    file_kind,
    load_checkpoint,
    load_pickle,
    load_strict,
    save_checkpoint,
    settle,
    strip_prefix,
)
from pidiff_core.errors import PIDiffError


class RunsCode:
    """A pickle of this creates the file that it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_tensors_and_configuration_come_back(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    shared = torch.randn(4, 4)
    tensors = {"a": shared, "b": shared[:2], "c": shared.t(), "half": shared.half()}
    save_checkpoint(path, tensors, {"type": "test", "channels": [1, 2], "name": "é"})
    loaded, config = load_checkpoint(path)
    assert config == {"type": "test", "channels": [1, 2], "name": "é"}
    assert all(
        torch.equal(loaded[key], tensor) and loaded[key].dtype == tensor.dtype for key, tensor in tensors.items()
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, {"a": torch.ones(1)}, {})
    with pytest.raises(TypeError):
        save_checkpoint(path, {"a": torch.zeros(1)}, {"bad": object()})
    assert load_checkpoint(path)[0]["a"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PIDiffError, match="Cannot write"):
        save_checkpoint(tmp_path / "file" / "model.safetensors", {"a": torch.ones(1)}, {})


def truncated(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def broken_safetensors(path, kind):
    if kind == "foreign":
        save_file({"weight": torch.ones(2)}, path)
    elif kind == "bad json":
        save_file({"weight": torch.ones(2)}, path, metadata={"pidiff": "{"})
    elif kind == "no object":
        save_file({"weight": torch.ones(2)}, path, metadata={"pidiff": "[1]"})
    elif kind == "truncated":
        save_checkpoint(path, {"a": torch.ones(500)}, {})
        truncated(path)
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html>Not found</html>")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("foreign", "not one of PIDiff's"),
        ("bad json", "cannot be read"),
        ("no object", "no JSON object"),
        ("truncated", "not a whole safetensors file"),
        ("html", "web page"),
        ("empty", "empty file"),
        ("folder", "is a folder"),
        ("missing", "Cannot read"),
    ],
)
def test_broken_checkpoints_are_named_and_refused(tmp_path, kind, message):
    path = tmp_path / "model.safetensors"
    broken_safetensors(path, kind)
    with pytest.raises(PIDiffError, match=message) as caught:
        load_checkpoint(path)
    assert "model.safetensors" in str(caught.value)


def broken_pickle(path, kind):
    if kind == "truncated":
        torch.save({"a": torch.ones(5000)}, path)
        truncated(path)
    elif kind == "truncated old format":
        torch.save({"a": torch.ones(5000)}, path, _use_new_zipfile_serialization=False)
        truncated(path)
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html>Not found</html>")
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "hostile pickle":
        path.write_bytes(pickle.dumps(RunsCode(str(path.parent / "ran")), protocol=2))
    elif kind == "hostile archive":
        torch.save({"a": RunsCode(str(path.parent / "ran"))}, path)
    elif kind == "zip bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "damaged or cut short"),
        ("truncated old format", "damaged or cut short|refused"),
        ("html", "web page"),
        ("lfs", "Git LFS pointer"),
        ("text", "not a PyTorch checkpoint"),
        ("empty", "empty file"),
        ("folder", "is a folder"),
        ("missing", "Cannot read"),
        ("hostile pickle", "refused.*Nothing in it was executed"),
        ("hostile archive", "refused.*Nothing in it was executed"),
        ("zip bomb", "refused.*unpack"),
        ("other zip", "damaged"),
    ],
)
def test_broken_and_hostile_pickles_are_named_and_refused(tmp_path, kind, message):
    path = tmp_path / "model.pt"
    broken_pickle(path, kind)
    with pytest.raises(PIDiffError, match=message) as caught:
        load_pickle(path)
    assert "model.pt" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to open it unsafely
    assert not (tmp_path / "ran").exists()


def bomb(kind):
    """A small file's content that would be enormous, or endless, for whoever walks through it."""
    if kind == "strides of zero":
        return {"weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    if kind == "one storage many times":
        shared = torch.zeros(1 << 20)
        return {str(index): shared.view(1 << 20) for index in range(100)}
    if kind == "laughs":
        nested = [0]
        for _ in range(12):
            nested = [nested] * 10
        return nested
    if kind == "depth":
        nested = []
        for _ in range(100):
            nested = [nested]
        return nested
    endless = {}
    endless["itself"] = endless
    return endless


@pytest.mark.parametrize("kind", ["strides of zero", "one storage many times", "laughs", "depth", "itself"])
def test_bombs_are_refused_before_anybody_walks_into_them(tmp_path, kind):
    torch.save(bomb(kind), tmp_path / "model.pt")
    with pytest.raises(PIDiffError, match=r"model\.pt was refused: its \d+ bytes unpack to more"):
        load_pickle(tmp_path / "model.pt")


def test_a_code_repeated_for_every_style_is_no_bomb(tmp_path):
    torch.save(torch.ones(1, 512).expand(18, 512), tmp_path / "codes.pt")
    assert torch.equal(load_pickle(tmp_path / "codes.pt"), torch.ones(18, 512))


@pytest.mark.parametrize(
    "odd",
    [torch.eye(3).to_sparse(), torch.ones(3, dtype=torch.complex64), torch.ones(3, device="meta")],
    ids=["sparse", "complex", "meta"],
)
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path, odd):
    torch.save({"state_dict": {"weight": odd}}, tmp_path / "model.pt")
    with pytest.raises(PIDiffError, match=r"model\.pt was refused: it holds a tensor that is no plain array"):
        load_pickle(tmp_path / "model.pt")


def test_a_configuration_nested_without_end_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"pidiff": "[" * 100_000})
    with pytest.raises(PIDiffError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_errors_do_not_print_a_file_in_place_of_its_keys(tmp_path):
    with pytest.raises(PIDiffError) as caught:
        load_strict(nn.Linear(3, 2), {"k" * 100_000: torch.ones(1)}, name="the layer")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_settled_weights_have_memory_of_their_own(tmp_path, dtype):
    torch.save(linear_state(), tmp_path / "layer.pt")
    module = nn.Linear(3, 2, device="meta")
    mapped = load_pickle(tmp_path / "layer.pt")
    load_strict(module, mapped, name="the layer", read_numbers=False)
    settle(module, dtype=dtype, name="the layer")
    assert {weight.dtype for weight in module.parameters()} == {dtype}
    assert not any(weight.requires_grad for weight in module.parameters())
    assert module.weight.data_ptr() != mapped["weight"].data_ptr()


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, torch.float32), (1e6, torch.float16)])
def test_weights_that_are_no_numbers_do_not_settle(value, dtype):
    module = nn.Linear(3, 2)
    load_strict(module, linear_state() | {"bias": torch.full((2,), value)}, name="the layer", read_numbers=False)
    with pytest.raises(PIDiffError, match="the layer are not finite: bias"):
        settle(module, dtype=dtype, name="the layer")


def test_a_pickle_with_a_namespace_of_options_is_read(tmp_path):
    path = tmp_path / "e4e.pt"
    torch.save({"opts": argparse.Namespace(n_styles=18), "latent_avg": torch.ones(2)}, path)
    content = load_pickle(path)
    assert content["opts"].n_styles == 18
    assert torch.equal(content["latent_avg"], torch.ones(2))


@pytest.mark.parametrize("kind", ["npy", "safetensors", "pickle"])
def test_a_file_is_known_by_its_content(tmp_path, kind):
    path = tmp_path / "codes.anything"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif kind == "safetensors":
        save_file({"a": torch.ones(1)}, path)
    else:
        torch.save(torch.ones(1), path)
    assert file_kind(path) == kind


def test_counters_may_be_of_any_type():
    module = nn.BatchNorm1d(2)
    load_strict(module, module.state_dict() | {"num_batches_tracked": torch.tensor(3.0)}, name="the layer")
    assert module.num_batches_tracked == 3


def linear_state():
    return {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strict_loading_fills_every_parameter(device):
    module = nn.Linear(3, 2, device=device)
    load_strict(module, linear_state(), name="the layer")
    assert torch.equal(module.weight, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bias"), "missing: bias"),
        (lambda state: state.update(extra=torch.ones(1)), "left over: extra"),
        (lambda state: state.update(weight=torch.ones(3, 2)), r"wrong shapes: weight \(3, 2\) instead of \(2, 3\)"),
        (lambda state: state.update(bias=torch.full((2,), torch.nan)), "not finite: bias"),
        (lambda state: state.update(bias="text"), "not tensors: bias"),
        (
            lambda state: state.update(bias=torch.ones(2).long()),
            "wrong types: bias torch.int64 instead of torch.float32",
        ),
        (lambda state: state.update(bias=torch.ones(2) > 0), "wrong types: bias torch.bool"),
        (lambda state: state.update({str(i): torch.ones(1) for i in range(20)}), "and 12 more"),
    ],
)
def test_strict_loading_lists_what_does_not_fit(change, message):
    module, state = nn.Linear(3, 2), linear_state()
    before = module.weight.clone()
    change(state)
    with pytest.raises(PIDiffError, match=message) as caught:
        load_strict(module, state, name="the layer")
    assert "the layer" in str(caught.value)
    assert torch.equal(module.weight, before)


def test_a_prefix_is_taken_off():
    assert list(strip_prefix({"encoder.a": torch.ones(1), "decoder.b": torch.ones(1)}, "encoder.")) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    save_checkpoint(tmp_path / "ours.safetensors", {"x": torch.zeros(1)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "ours.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
