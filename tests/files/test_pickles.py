"""Pickles of strangers: tensors come out, and every broken or hostile file is an error that runs nothing."""

from __future__ import annotations

import argparse
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from pidiff_core.errors import PIDiffError
from pidiff_core.files import cache, pickles
from pidiff_core.files.pickles import load_pickle
from tests.files.archives import promise_two_gigabytes


class RunsCode:
    """A pickle of this creates the file that it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def truncated(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


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
        ("hostile pickle", r"refused.*\((os|posix|nt)\.mkdir\)\. Nothing in it was executed"),
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
    """A small file's content that would be enormous, or endless, for a reader that walks through it."""
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
def test_bombs_are_refused_before_they_are_used(tmp_path, kind):
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
def test_tensors_that_are_not_plain_arrays_are_refused(tmp_path, odd):
    torch.save({"state_dict": {"weight": odd}}, tmp_path / "model.pt")
    with pytest.raises(PIDiffError, match=r"model\.pt was refused: it holds a tensor that is not a plain array"):
        load_pickle(tmp_path / "model.pt")


def test_a_pickle_with_a_namespace_of_options_is_read(tmp_path):
    path = tmp_path / "e4e.pt"
    torch.save({"opts": argparse.Namespace(n_styles=18), "latent_avg": torch.ones(2)}, path)
    content = load_pickle(path)
    assert content["opts"].n_styles == 18
    assert torch.equal(content["latent_avg"], torch.ones(2))


class Instructions:
    """A pickle, opcode by opcode (protocol 2), in an archive as torch.save writes it."""

    def __init__(self, *parts, storages=()):
        self.data = b"\x80\x02" + b"".join(parts) + b"."
        self.storages = storages

    def archive(self, path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", self.data)
            archive.writestr("archive/byteorder", "little")
            for index, size in enumerate(self.storages):
                archive.writestr(f"archive/data/{index}", bytes(size))
            archive.writestr("archive/version", "3\n")

    def legacy(self, path):
        numbers = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
        head = b"".join(pickle.dumps(value, protocol=2) for value in numbers)
        path.write_bytes(head + self.data + pickle.dumps([], protocol=2))


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def integer(number):
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def storage(count, kind="Float", key="0"):
    return b"(" + text("storage") + named(f"torch.{kind}Storage") + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(count, *, sizes, strides, offset=0):
    shapes = [b"(" + b"".join(map(integer, numbers)) + b"t" for numbers in (sizes, strides)]
    parts = [named("torch._utils._rebuild_tensor_v2"), b"(", storage(count), integer(offset), *shapes, b"\x89"]
    return b"".join([*parts, named("collections.OrderedDict"), b")RtR"])


TUPLES = b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
CODECS = named("_codecs.encode") * 25 + text("a" * 60) + (text("hex_codec") + b"\x86R") * 25
HOSTILE = {
    "frozen by a key": ([b"}", TUPLES, b"K\x01s"], "a dictionary whose keys are not names or numbers"),
    "frozen by many keys": ([b"}(", TUPLES, b"K\x01u"], "a dictionary whose keys are not names or numbers"),
    "frozen by an ordered dictionary": (
        [named("collections.OrderedDict"), b"](", TUPLES, b"K\x01\x86e\x85R"],
        "fills a dict in an unknown way",
    ),
    "a set of tuples": ([named("builtins.set"), b"](", TUPLES, b"e\x85R"], r"builtins\.set"),
    "bytearray": ([named("builtins.bytearray"), integer(3 << 30), b"\x85R"], r"builtins\.bytearray"),
    "codecs": ([CODECS], r"_codecs\.encode"),
    "a size called": ([named("torch.FloatTensor"), integer(3 << 30), b"\x85R"], r"torch\.FloatTensor"),
    "a storage called": ([named("torch.FloatStorage"), integer(3 << 30), b"\x85R"], r"calls torch\.FloatStorage"),
    "a storage that is too large": ([storage(3 << 30)], "promises tensors that are larger than the file"),
    "a view that is too large": (
        [tensor(4, sizes=(1 << 33,), strides=(1,))],
        "holds a tensor that is larger than its numbers",
    ),
    "a view that begins outside": ([tensor(4, sizes=(1,), strides=(1,), offset=4)], "larger than its numbers"),
    "a negative stride": ([tensor(4, sizes=(2,), strides=(-1,), offset=3)], "impossible shape"),
    "another builder": (
        [named("torch._tensor._rebuild_from_type_v2"), b"(", named("collections.OrderedDict"), b"N)}tR"],
        "builds a tensor in an unknown way",
    ),
    "a nested tensor": ([named("torch._utils._rebuild_nested_tensor")], "not a plain array of numbers"),
    "state of a tensor": ([tensor(4, sizes=(4,), strides=(1,)), b"}b"], "puts a tensor where"),
    "an opcode of newer pickles": ([b"\x8f"], "uses the pickle opcode"),
    "an object of a storage": ([named("torch.FloatStorage"), b")\x81"], "makes objects other than"),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
@pytest.mark.parametrize("layout", ["archive", "legacy"])
def test_what_no_checkpoint_needs_is_refused_before_it_is_built(tmp_path, kind, layout):
    parts, message = HOSTILE[kind]
    getattr(Instructions(*parts, storages=[16]), layout)(tmp_path / "a.pt")
    with pytest.raises(PIDiffError, match=rf"a\.pt was refused: it .*{message}"):
        load_pickle(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "parts", [[b"h\x05"], [b"t"], [b"\x85"], [b"}(K\x01u"], [b"X\xff\xff\xff\x7fa"], [b"cos\n"], [b"e"], [b""]]
)
@pytest.mark.parametrize("layout", ["archive", "legacy"])
def test_instructions_that_break_off_are_damage(tmp_path, parts, layout):
    getattr(Instructions(*parts), layout)(tmp_path / "a.pt")
    with pytest.raises(PIDiffError, match=r"a\.pt (is damaged|was refused)"):
        load_pickle(tmp_path / "a.pt")


def test_a_tensor_by_hand_is_read(tmp_path):
    """What the refused ones have in common with a good one is not the reason."""
    Instructions(tensor(4, sizes=(2, 2), strides=(2, 1)), storages=[16]).archive(tmp_path / "a.pt")
    assert torch.equal(load_pickle(tmp_path / "a.pt"), torch.zeros(2, 2))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_scripts_save_is_read(tmp_path, legacy):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    content = {
        "state_dict": module.state_dict(),  # an ordered dictionary with attributes
        "parameter": nn.Parameter(torch.arange(3.0)),
        "view": torch.arange(12.0).reshape(3, 4).t()[1:],
        "half": torch.ones(2, dtype=torch.float16),
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "size": torch.Size([1, 2]),
        "type": torch.float16,
        "device": torch.device("cpu"),
        "numbers": [1, -2, 2**40, 1.5, None, True, (1, 2)],
        "options": argparse.Namespace(lr=0.1, name="é", sizes=[1, 2]),
        7: OrderedDict(a=torch.ones(1)),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    read = load_pickle(tmp_path / "a.pt")
    assert read["options"] == content["options"]
    assert read["numbers"] == content["numbers"]
    assert torch.equal(read["view"], content["view"])
    assert torch.equal(read["parameter"], content["parameter"])
    assert torch.equal(read[7]["a"], torch.ones(1))
    assert all(torch.equal(read["state_dict"][key], value) for key, value in module.state_dict().items())


def test_float8_is_read(tmp_path):
    numbers = torch.arange(4.0).to(torch.float8_e4m3fn)
    torch.save({"a": numbers}, tmp_path / "a.pt")
    assert torch.equal(load_pickle(tmp_path / "a.pt")["a"].float(), torch.arange(4.0))


def test_archives_that_other_readers_see_differently_are_refused(tmp_path):
    """Two parts of one name, in one spelling or another: which of them is read depends on the reader."""
    good = Instructions(b"}")
    good.archive(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("archive/DATA.PKL", good.data)
    with pytest.raises(PIDiffError, match="one part twice"):
        load_pickle(tmp_path / "a.pt")
    Instructions(b"}").archive(tmp_path / "b.pt")
    data = (tmp_path / "b.pt").read_bytes().replace(b"archive/version", b"archive/\xff\xfersion")
    (tmp_path / "b.pt").write_bytes(data)
    with pytest.raises(PIDiffError, match="is damaged"):
        load_pickle(tmp_path / "b.pt")


def test_a_part_that_promises_more_than_the_file_takes_no_memory(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.ones(3), path)
    promise_two_gigabytes(path)
    tracemalloc.start()
    try:
        with pytest.raises(PIDiffError, match=r"damaged or cut short.*longer than the file"):
            load_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_only_shapes_reads_no_numbers(tmp_path):
    torch.save({"a": torch.ones(5, 3)}, tmp_path / "a.pt")
    assert load_pickle(tmp_path / "a.pt", only_shapes=True)["a"].shape == (5, 3)


GOOD, LARGER_THAN_ITS_NUMBERS = (
    Instructions(tensor(4, sizes=(2, 2), strides=(2, row)), storages=[16]) for row in (1, 9)
)  # the two files have the same size


@pytest.fixture
def scans(monkeypatch):
    """One entry for each scan of a file's instructions; files count as settled as soon as they are written."""
    monkeypatch.setattr(cache, "_SETTLED_S", -60.0)
    counted, scan = [], pickles.scan_pickle
    monkeypatch.setattr(pickles, "scan_pickle", lambda *args, **kwargs: counted.append(None) or scan(*args, **kwargs))
    return counted


def test_instructions_of_one_content_are_scanned_once(tmp_path, scans):
    for name in ("a.pt", "b.pt"):
        GOOD.archive(tmp_path / name)
        for only_shapes in (True, False, False):
            load_pickle(tmp_path / name, only_shapes=only_shapes)
    assert len(scans) == 2


@pytest.mark.parametrize("way", ["another file under its name", "written over"])
def test_a_file_that_was_replaced_is_scanned_again(tmp_path, scans, way):
    """Also if it has the old one's size and time."""
    path, other = tmp_path / "a.pt", tmp_path / "other.pt"
    GOOD.archive(path)
    load_pickle(path)
    before = path.stat()
    LARGER_THAN_ITS_NUMBERS.archive(other)
    assert other.stat().st_size == before.st_size
    if way == "written over":
        path.write_bytes(other.read_bytes())
    else:
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for _ in range(2):  # a file that was refused stays refused
        with pytest.raises(PIDiffError, match="larger than its numbers"):
            load_pickle(path)
    assert len(scans) == 3


def test_a_file_that_was_just_written_is_scanned_every_time(tmp_path, scans, monkeypatch):
    """It may change within one step of its file system's clock."""
    monkeypatch.setattr(cache, "_SETTLED_S", 60.0)
    GOOD.archive(tmp_path / "a.pt")
    for _ in range(2):
        load_pickle(tmp_path / "a.pt")
    assert len(scans) == 2
