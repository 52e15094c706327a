"""Inputs of the fuzzer: small valid files of every kind that the pack reads, and mutations that keep their structure.

A mutation of bytes alone rarely gets past the first check of a format. So a container is opened, one of its parts is
changed (a number of its header, a member of its archive, an opcode of its pickle, a cell of its table), and it is
closed again with lengths and checksums that are right.
"""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

Reader = Callable[[Path], Any]

STYLES, WIDTH = 8, 6
_NUMBERS = (0, 1, -1, 2, 7, 255, 65535, 2**31 - 1, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e300, 1e-300)
_WORDS = (
    "", "nan", "inf", "-1", "\x00", "\ud83d", "e\u0301", "../../x", "F4", "BF16", "float8_e4m3fn", "x" * 5000, "{}",
    "[", "null",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- valid files


def seeds() -> dict[str, tuple[str, list[bytes]]]:
    """By a reader's name: the file ending, and valid files as bytes."""
    codes = torch.randn(2, STYLES, WIDTH, generator=torch.Generator().manual_seed(0))
    components = {"mean": torch.zeros(1, WIDTH), "comp": torch.ones(3, 1, WIDTH), "std": torch.ones(3)}
    points = [[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]]
    keypoints = [float(number) for i in range(70) for number in (20 + i * 7 % 80, 20 + i * 13 % 80, 1)]
    people = {"people": [{"face_keypoints_2d": keypoints}], "canvas_width": 128, "canvas_height": 128}
    landmarks = [points, [points, points], {"faces": [points]}, people, [people], {"frames": [[points]]}]
    table = "smile\t1\t0\t8\t2.5\nage\t2\t1\t4\t-1\n"
    return {
        "codes": (".bin", [*_own_codes(codes), *_arrays(codes), _pickled(codes), _pickled(codes, zipped=False)]),
        "directions": (".pt", [_pickled(codes[0]), _pickled(list(codes)), _pickled(components), _npy(codes[0])]),
        "table": (".csv", [table.encode(), table.replace("\t", ";").encode("utf-16"), table.encode("utf-8-sig")]),
        "adapter": (".bin", [_adapter(), _pickled(_foreign_adapter())]),
        "encoder": (".bin", [_pickled(_foreign_encoder())]),
        "yunet": (".pth", [_pickled({"conv_head.weight": torch.ones(2, 3)})]),
        "parser": (".pth", [_pickled({"cp.resnet.conv1.weight": torch.ones(2, 3), "conv_out.conv_out.weight": codes})]),
        "landmarks": (".json", [json.dumps(value).encode() for value in landmarks] + [b"1,2 3,4 5,6 7,8 9,10"]),
        "config": (".toml", [(Path(__file__).parent.parent / "pidiff_core/training/presets/sd15.toml").read_bytes()]),
    }


def _own_codes(codes: torch.Tensor) -> list[bytes]:
    space = {"name": "test", "num_styles": STYLES, "width": WIDTH}
    config = {"kind": "codes", "space": space, "source": "photo.png", "origin": {"photos": [{"name": "photo.png"}]}}
    tensors = {"codes": codes, "latent_avg": torch.zeros(STYLES, WIDTH)}
    return [save_safetensors(tensors, metadata={"pidiff": json.dumps(config)})]


def _arrays(codes: torch.Tensor) -> list[bytes]:
    archive = io.BytesIO()
    np.savez(archive, w=codes.numpy())
    return [_npy(codes), archive.getvalue()]


def _npy(codes: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, codes.numpy())
    return file.getvalue()


def _pickled(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _adapter() -> bytes:
    from pidiff_core.adapter.adapter import IdentityAdapter
    from pidiff_core.adapter.config import AdapterConfig
    from pidiff_core.adapter.sites import SiteSpec
    from pidiff_core.files.adapters import save_adapter
    from pidiff_core.wplus.codes import WPlusSpace

    config = AdapterConfig(sites=(SiteSpec("middle.0.0", 8, 2),), num_styles=STYLES, code_width=WIDTH, token_width=12)
    path = Path(_scratch(), "adapter.safetensors")
    space = WPlusSpace("test", STYLES, WIDTH)
    save_adapter(path, IdentityAdapter(config), space=space, latent_avg=torch.zeros(STYLES, WIDTH))
    return path.read_bytes()


def _foreign_adapter() -> dict[str, Any]:
    """W+ Adapter's layout with one site, narrow: its first checks pass."""
    projection = {f"proj_{i}.weight": torch.zeros(4, 2048 if i < 3 else 3072) for i in range(4)}
    projection |= {"norm.weight": torch.ones(4), "norm.bias": torch.zeros(4)}
    return {"w_proj": projection, "wplus_adapter": {"1.to_k_wplus.weight": torch.zeros(8, 4)}}


def _foreign_encoder() -> dict[str, Any]:
    state = {"encoder.input_layer.0.weight": torch.zeros(4, 3, 3, 3), "encoder.latlayer1.bias": torch.zeros(4)}
    return {"state_dict": state, "latent_avg": torch.zeros(STYLES, WIDTH), "opts": {"start_from_latent_avg": True}}


def _scratch() -> str:
    import tempfile

    folder = tempfile.mkdtemp(prefix="pidiff-fuzz-seed-")
    return folder


# ------------------------------------------------------------------------------------------------------------- readers


def readers() -> dict[str, Reader]:
    """By name: what reads a file as the nodes and the trainer do."""
    from pidiff_core.face.detectors.yunet import YuNetDetector
    from pidiff_core.face.landmark_input import read_landmarks
    from pidiff_core.face.parsers.face_parser import FaceParser
    from pidiff_core.files.loading import load_pidiff
    from pidiff_core.training.config_file import load_config
    from pidiff_core.wplus.code_files import load_codes
    from pidiff_core.wplus.codes import WPlusSpace
    from pidiff_core.wplus.direction_files import COMPONENTS_FILE, load_directions
    from pidiff_core.wplus.list_codes import describe_codes

    space, average = WPlusSpace("test", STYLES, WIDTH), torch.zeros(STYLES, WIDTH)
    components = _pickled({"mean": torch.zeros(1, WIDTH), "comp": torch.ones(3, 1, WIDTH), "std": torch.ones(3)})

    def codes(path: Path) -> None:
        describe_codes(path)
        load_codes(path, space=space, latent_avg=average)

    def table(path: Path) -> None:
        path.with_name(COMPONENTS_FILE).write_bytes(components)
        load_directions(path)

    def landmarks(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        read_landmarks(text, count=1, size=(128, 128))
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return
        read_landmarks(value, count=1, size=(128, 128))  # as another node hands it over

    return {
        "codes": codes,
        "directions": load_directions,
        "table": table,
        "adapter": lambda path: load_pidiff(adapter=path, encoder=None),
        "encoder": lambda path: load_pidiff(adapter=None, encoder=path),
        "yunet": YuNetDetector,
        "parser": FaceParser,
        "landmarks": landmarks,
        "config": lambda path: load_config(file=path),
    }


# ----------------------------------------------------------------------------------------------------------- mutations


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(_changes_for(data))
        try:
            data = change(data, rng)
        except Exception:  # an earlier change has broken the container, in any way
            data = _bytes_changed(data, rng)
    return data


def _changes_for(data: bytes) -> list[Callable[[bytes, random.Random], bytes]]:
    if data[:4] == b"PK\x03\x04":
        return [_archive_changed, _archive_changed, _archive_changed, _bytes_changed]
    if data[:6] == b"\x93NUMPY":
        return [_npy_changed, _npy_changed, _bytes_changed]
    if len(data) > 9 and data[8:9] == b"{":
        return [_safetensors_changed, _safetensors_changed, _safetensors_changed, _bytes_changed]
    if data[:1] == b"\x80":
        return [_bytes_changed, _pickle_changed]
    return [_text_changed, _text_changed, _json_changed, _bytes_changed]


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    if not content:
        return bytes([rng.randrange(256)])
    where = rng.randrange(len(content))
    kind = rng.randrange(6)
    if kind == 0:
        content[where] = rng.randrange(256)
    elif kind == 1:
        del content[where:]
    elif kind == 2:
        content[where:where] = content[where : where + rng.randrange(64)] * rng.randrange(1, 4)
    elif kind == 3:
        content[where : where + 8] = struct.pack("<q", rng.choice((0, 1, -1, 2**31, 2**62, len(content))))
    elif kind == 4:
        del content[where : where + rng.randrange(1, 64)]
    else:
        content[where : where + rng.randrange(1, 16)] = bytes(rng.randrange(256) for _ in range(rng.randrange(16)))
    return bytes(content)


def _safetensors_changed(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__")
    if metadata and rng.random() < 0.5:
        key = rng.choice(list(metadata))
        metadata[key] = json.dumps(_value_changed(json.loads(metadata[key]), rng))
    else:
        header = _value_changed(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _archive_changed(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    which = rng.randrange(len(members))
    name, content = members[which]
    kind = rng.randrange(6)
    if kind == 0:
        del members[which]
    elif kind == 1:
        members[which] = (name + rng.choice(("x", "/", "\\..", "\u202e")), content)
    elif kind == 2:
        members.append((rng.choice(("a/b", "../c", name)), rng.randbytes(rng.randrange(64))))
    elif content[:6] == b"\x93NUMPY":
        members[which] = (name, _npy_changed(content, rng))
    elif name.endswith("data.pkl") and kind < 5:
        members[which] = (name, _pickle_changed(content, rng))
    else:
        members[which] = (name, _bytes_changed(content, rng))
    out = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # one name twice is meant
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, packing)  # of 1980: the same bytes at any time
    return out.getvalue()


def _pickle_changed(data: bytes, rng: random.Random) -> bytes:
    """Opcodes removed, repeated, exchanged, or with another number behind them."""
    import pickletools

    places = [position for _, _, position in pickletools.genops(data) if position is not None]
    parts = [data[start:end] for start, end in zip(places, [*places[1:], len(data)])]
    which = rng.randrange(len(parts))
    kind = rng.randrange(5)
    if kind == 0:
        del parts[which]
    elif kind == 1:
        parts[which:which] = [parts[which]] * rng.choice((1, 3, 200))
    elif kind == 2:
        other = rng.randrange(len(parts))
        parts[which], parts[other] = parts[other], parts[which]
    elif kind == 3:
        number = rng.choice(
            (b"K\x00", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"J\x00\x00\x00\x80", b"N", b"]", b"}")
        )
        parts[which] = number
    else:
        parts[which] = _bytes_changed(parts[which], rng)
    return b"".join(parts)


def _npy_changed(data: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].decode("latin1")
    old = rng.choice(("'<f4'", "False", "(2, 8, 6)", "(8, 6)", "2", "8", "fortran_order", "shape", "descr"))
    new = rng.choice(
        ("'<f8'", "'|O'", "'<U9'", "'>f4'", "'<c8'", "'V4'", "[('a', '<f4')]", "True", "()", "(0,)",
         "(-1, 8, 6)", "(2, 8,", "9" * 30)
    )  # fmt: skip
    text = header.replace(old, new, 1).encode("latin1")
    return data[:8] + struct.pack("<H", len(text)) + text + data[10 + length :]


def _json_changed(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(_value_changed(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def _value_changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one value in it, or one key, exchanged."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            renamed = dict(value)
            renamed[rng.choice(_WORDS)] = renamed.pop(key)
            return renamed
        return {**value, key: _value_changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        which = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:which] + [value[which]] * rng.randrange(4) + value[which + 1 :]
        return [*value[:which], _value_changed(value[which], rng), *value[which + 1 :]]
    if rng.random() < 0.05:
        deep: Any = 1
        for _ in range(rng.choice((10, 900))):
            deep = [deep]
        return deep
    return rng.choice((None, True, [], {}, [[]], {"a": 1}, *_NUMBERS, *_WORDS, value))


def _text_changed(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    words = text.replace(",", " , ").replace("\t", " \t ").split(" ")
    which = rng.randrange(len(words))
    kind = rng.randrange(4)
    if kind == 0:
        words[which] = str(rng.choice((*_NUMBERS, *_WORDS)))
    elif kind == 1:
        words[which : which + 3] = []
    elif kind == 2:
        words[which:which] = words[max(0, which - 5) : which] * rng.randrange(1, 50)
    else:
        words[which] = words[which] + rng.choice(("\r", "\n", "\u2028", '"', ";", "=", "[", "]", "#"))
    return " ".join(words).encode("utf-8", "surrogatepass")
