"""Safetensors files: the header first, then the tensors that are wanted, one at a time.

The layout is that of github.com/huggingface/safetensors: the header's length (8 bytes, little endian), the header as
JSON, the tensors' bytes. They are read, not memory-mapped: the pages of a mapping count as the process's memory until
all of it is unmapped, and a mapped file that another program cuts short ends the process.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import PIDiffError, first_line, quoted
from .cache import file_identity
from .recognise import existing_file, mistaken_for

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_MOST_HEADER_BYTES = 100 << 20  # the format's own limit
_MOST_DIMENSIONS = 16


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    size: int  # bytes


class SafetensorsFile:
    """The header of a safetensors file; its tensors are read when they are asked for.

    Attributes:
        metadata: the file's own entries, text by text.

    Raises:
        PIDiffError: missing, empty, a folder, not a whole safetensors file, or tensors of a type that is unknown here.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = existing_file(path)
        self._identity = file_identity(self.path)
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > min(_MOST_HEADER_BYTES, self._identity[0] - 8):
                    raise ValueError(f"its header should be {length} bytes long")
                header = json.loads(file.read(length))
                if not isinstance(header, dict):
                    raise ValueError("its header is not a JSON object")
                metadata = header.pop("__metadata__", {})
                if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
                    raise ValueError("its metadata is not text")
                self.metadata: Mapping[str, str] = metadata
                self._entries = {key: self._entry(key, fields, 8 + length) for key, fields in header.items()}
        except (OSError, ValueError, RecursionError) as error:  # JSON that is damaged is a ValueError
            raise self._damaged(error) from error

    def _entry(self, key: str, fields: Any, data_start: int) -> _Entry:
        try:
            dtype_name, shape, (start, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
        except (TypeError, ValueError, LookupError):
            raise ValueError(f"its header does not describe {quoted(key)}") from None
        if not isinstance(dtype_name, str) or dtype_name not in _DTYPES:
            raise PIDiffError(
                f"{self.path} holds {quoted(key)} in the data type {quoted(dtype_name)}, which PIDiff cannot read. "
                f"Expected one of {', '.join(_DTYPES)}: save the file in half or single precision."
            )
        if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
            raise ValueError(f"the sizes of {quoted(key)} are not whole numbers")
        dtype = _DTYPES[dtype_name]
        too_many = len(shape) > _MOST_DIMENSIONS
        if too_many or end - start != math.prod(shape) * dtype.itemsize or data_start + end > self._identity[0]:
            raise ValueError(f"{quoted(key)} does not fit into it: it is cut short")
        return _Entry(dtype, shape, data_start + start, end - start)

    def shapes(self, prefix: str = "") -> dict[str, Tensor]:
        """Tensors without memory (on the meta device), by the rest of their key, of all keys that begin so."""
        return {
            key.removeprefix(prefix): torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            for key, entry in self._entries.items()
            if key.startswith(prefix)
        }

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU, in memory of its own.

        Raises:
            PIDiffError: the file has changed since it was opened, or it cannot be read.
        """
        dtype, shape, start, size = self._entries[key]
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != self._identity:
                    raise PIDiffError(f"{self.path.name} has changed since it was opened. Queue again.")
                file.seek(start)
                numbers = torch.empty(size, dtype=torch.uint8)
                read = file.readinto(numbers.numpy().data)
        except OSError as error:
            raise self._damaged(error) from error
        if read != size:
            raise PIDiffError(f"{self.path.name} has been cut short while it was read. Queue again.")
        return numbers.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors whose key begins so, by the rest of their key."""
        return {key.removeprefix(prefix): self.read(key) for key in self._entries if key.startswith(prefix)}

    def _damaged(self, error: BaseException) -> PIDiffError:
        return PIDiffError(
            f"{self.path} is not a whole safetensors file ({first_line(error)}){mistaken_for(self.path)}. "
            "Download or save it again."
        )
