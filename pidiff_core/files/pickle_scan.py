"""Check of a PyTorch pickle's opcodes before any object is built.

torch's `weights_only` runs no code, but it builds every object that a file asks for: a kilobyte can take gigabytes
(calls of `bytearray`, of codecs) or freeze the process (nested tuples as a dictionary's key are hashed without end).
Here a pickle may hold tensors, plain containers with names or numbers as keys, and the options of training scripts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

_MOST_OPCODES = 4_000_000  # the largest published files have 60,000
_MOST_LINE = 512  # characters of a global's name
_MOST_DIMENSIONS = 16
# What calling each of these builds. Storages and data types are only named, never called.
_PLAIN_BUILDERS = {
    f"torch._utils.{name}"
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
}
_CALLS = dict.fromkeys((*_PLAIN_BUILDERS, "torch._tensor._rebuild_from_type_v2"), "tensor") | {
    "collections.OrderedDict": "dict",
    "argparse.Namespace": "namespace",
    "torch.device": "constant",
    "torch.Size": "constant",
}
_STORAGE_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "Untyped": 1,
}  # fmt: skip
_STORAGES = {
    f"{module}.{kind}Storage": size for kind, size in _STORAGE_BYTES.items() for module in ("torch", "torch.storage")
}
_DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int64": 8,
    "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter"}  # only named, as a type
_NAMES = {*_CALLS, *_STORAGES, *_CLASSES, *(f"torch.{name}" for name in _DTYPE_BYTES)}


class Refused(Exception):
    """A pickle that asks for something no checkpoint needs; the text ends the sentence "... was refused: it"."""


class Damaged(Exception):
    """A stream of opcodes that breaks off or makes no sense."""


@dataclass(slots=True)
class _Value:
    """Something that would be on the unpickler's stack."""

    kind: str  # text, number, constant, tuple, list, dict, namespace, tensor, storage, or global
    content: Any = None  # text, number, a global's name, or a tuple's values


def scan_pickle(file: BinaryIO, *, most_bytes: int) -> None:
    """Read one pickle from a file, up to its last opcode, and build nothing.

    Args:
        file: positioned at the start of the pickle.
        most_bytes: what its tensors may take together, and any of them alone.

    Raises:
        Refused: it would do something else than build tensors in plain containers.
        Damaged: it breaks off.
    """
    _Scan(file, most_bytes).run()


class _Scan:
    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._stack: list[_Value] = []
        self._marks: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}
        self._storages: dict[str, int] = {}  # bytes by key
        self._total_bytes = 0

    def run(self) -> None:
        read = self._file.read
        for _ in range(_MOST_OPCODES):
            code = read(1)
            if code == b".":
                return
            step = _STEPS.get(code)
            if step is None:
                if not code:
                    raise Damaged("it breaks off")
                raise Refused(f"uses the pickle opcode {code!r}, which PyTorch checkpoints do not use")
            step(self)
        raise Refused(f"has more than {_MOST_OPCODES} objects")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self._most_bytes else b""
        if len(data) != count:
            raise Damaged("it breaks off")
        return data

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._read(struct.calcsize(layout)))[0]

    def _push(self, kind: str, content: Any = None) -> None:
        self._stack.append(_Value(kind, content))

    def _pop(self, *kinds: str) -> _Value:
        if not self._stack:
            raise Damaged("its stack is empty")
        value = self._stack.pop()
        if kinds and value.kind not in kinds:
            raise Refused(f"puts a {value.kind} where a checkpoint has a {kinds[0]}")
        return value

    def _top(self, *kinds: str) -> _Value:
        value = self._pop(*kinds)
        self._stack.append(value)
        return value

    def _since_mark(self) -> list[_Value]:
        if not self._marks:
            raise Damaged("its stack has no mark")
        values, self._stack = self._stack, self._marks.pop()
        return values

    def mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def tuple_of(self, count: int | None) -> None:
        values = self._since_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._push("tuple", values)

    def set_items(self, values: list[_Value]) -> None:
        self._top("dict")
        if len(values) % 2:
            raise Damaged("a dictionary's last key has no value")
        if odd := [key.kind for key in values[::2] if key.kind not in ("text", "number")]:
            raise Refused(f"holds a dictionary whose keys are not names or numbers ({odd[0]})")

    def global_name(self) -> None:
        parts = []
        for _ in range(2):
            line = self._file.readline(_MOST_LINE)
            if not line.endswith(b"\n"):
                raise Damaged("a name breaks off")
            parts.append(line[:-1].decode("utf-8", "backslashreplace"))
        name = ".".join(parts).replace("__builtin__.", "builtins.")
        if name not in _NAMES:
            if name.startswith(("torch._utils._rebuild_", "torch.sparse", "torch.nested")) or name.endswith("Storage"):
                raise Refused(f"holds a tensor that is not a plain array of numbers ({name})")
            raise Refused(
                f"holds objects other than tensors, which can run code when they are opened ({name}). "
                "Nothing in it was executed"
            )
        self._push("global", name)

    def call(self) -> None:
        arguments = self._pop("tuple").content
        name = self._pop("global").content
        if name not in _CALLS:
            raise Refused(f"calls {name}")
        if _CALLS[name] in ("dict", "namespace") and arguments:
            raise Refused(f"fills a {_CALLS[name]} in an unknown way")
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: it calls another builder
            if len(arguments) != 4 or arguments[0].content not in _PLAIN_BUILDERS or arguments[2].kind != "tuple":
                raise Refused("builds a tensor in an unknown way")
            name, arguments = arguments[0].content, arguments[2].content
        if name in _PLAIN_BUILDERS and name != "torch._utils._rebuild_parameter":
            _check_tensor(arguments, has_dtype=name == "torch._utils._rebuild_tensor_v3")
        self._push(_CALLS[name])

    def new_object(self) -> None:
        self._pop("tuple")
        if self._pop("global").content != "argparse.Namespace":
            raise Refused("makes objects other than tensors and containers")
        self._push("namespace")

    def build(self) -> None:
        self._pop("dict")
        self._top("dict", "namespace")

    def storage(self) -> None:
        values = self._pop("tuple").content
        layout = [value.kind for value in values[:5]]
        if layout != ["text", "global", "text", "text", "number"] or values[0].content != "storage":
            raise Refused("refers to something other than a tensor's numbers")
        size = _STORAGES.get(values[1].content)
        if size is None or not isinstance(values[4].content, int) or values[4].content < 0:
            raise Refused("refers to numbers of an unknown type")
        key, numbers = values[2].content, values[4].content
        self._total_bytes += size * numbers - self._storages.get(key, 0)
        self._storages[key] = size * numbers
        if self._total_bytes > self._most_bytes:
            raise Refused("promises tensors that are larger than the file")
        self._push("storage", numbers)

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise Damaged("it refers to an object that is not in it")
        self._stack.append(self._memo[index])

    def put(self, index: int) -> None:
        self._memo[index] = self._top()


def _check_tensor(arguments: list[_Value], *, has_dtype: bool) -> None:
    """A tensor over a storage (storage, offset, size, strides, ...): all of it inside, or torch would enlarge it.

    The newest builder is for data types that have no storages of their own: it counts in bytes, and names the type.
    """
    kinds = [value.kind for value in arguments[:4]]
    if kinds != ["storage", "number", "tuple", "tuple"]:
        raise Refused("builds a tensor in an unknown way")
    offset, (sizes, strides) = (
        arguments[1].content,
        ([item.content for item in value.content] for value in arguments[2:4]),
    )
    numbers = [offset, *sizes, *strides]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(sizes) != len(strides):
        raise Refused("builds a tensor of an impossible shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides))
    number_bytes = 1
    if has_dtype:
        dtype = str(arguments[6].content).removeprefix("torch.") if len(arguments) > 6 else ""
        if dtype not in _DTYPE_BYTES:
            raise Refused("holds a tensor of an unknown data type")
        number_bytes = _DTYPE_BYTES[dtype]
    if 0 not in sizes and (last + 1) * number_bytes > arguments[0].content:
        raise Refused("holds a tensor that is larger than its numbers")
    if len(sizes) > _MOST_DIMENSIONS:
        raise Refused("holds a tensor of too many dimensions")


def _pushing(kind: str, layout: str = "") -> Callable[[_Scan], None]:
    def step(scan: _Scan) -> None:
        scan._push(kind, scan._number(layout) if layout else None)

    return step


def _text(layout: str) -> Callable[[_Scan], None]:
    def step(scan: _Scan) -> None:
        scan._push("text", scan._read(scan._number(layout)).decode("utf-8", "backslashreplace"))

    return step


def _long(scan: _Scan) -> None:
    scan._push("number", int.from_bytes(scan._read(scan._number("<B")), "little", signed=True))


def _append(scan: _Scan) -> None:
    scan._pop()
    scan._top("list")


def _appends(scan: _Scan) -> None:
    scan._since_mark()
    scan._top("list")


def _set_item(scan: _Scan) -> None:
    value, key = scan._pop(), scan._pop()
    scan.set_items([key, value])


# The opcodes that torch writes (pickle protocol 2), and no others.
_STEPS: dict[bytes, Callable[[_Scan], Any]] = {
    b"\x80": lambda scan: scan._number("<B"),
    b"c": _Scan.global_name,
    b"R": _Scan.call,
    b"\x81": _Scan.new_object,
    b"b": _Scan.build,
    b"Q": _Scan.storage,
    b"(": _Scan.mark,
    b"t": lambda scan: scan.tuple_of(None),
    b"\x85": lambda scan: scan.tuple_of(1),
    b"\x86": lambda scan: scan.tuple_of(2),
    b"\x87": lambda scan: scan.tuple_of(3),
    b")": lambda scan: scan._push("tuple", []),
    b"]": _pushing("list"),
    b"}": _pushing("dict"),
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": lambda scan: scan.set_items(scan._since_mark()),
    b"N": _pushing("constant"),
    b"\x88": _pushing("number"),
    b"\x89": _pushing("number"),
    b"J": _pushing("number", "<i"),
    b"K": _pushing("number", "<B"),
    b"M": _pushing("number", "<H"),
    b"G": _pushing("number", ">d"),
    b"\x8a": _long,
    b"X": _text("<I"),
    b"U": _text("<B"),
    b"h": lambda scan: scan.get(scan._number("<B")),
    b"j": lambda scan: scan.get(scan._number("<I")),
    b"q": lambda scan: scan.put(scan._number("<B")),
    b"r": lambda scan: scan.put(scan._number("<I")),
}
