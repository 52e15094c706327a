"""The names of the embedded model's directions, for lists that are made before the model is loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..errors import PIDiffError
from ..files.safetensors import SafetensorsFile

_IDENTITY = Path(__file__).parent / "weights" / "identity.safetensors"


@cache
def direction_names() -> tuple[str, ...]:
    """In alphabetical order; from the header of the file, whose tensors are not read. Empty if the file is missing."""
    try:
        return tuple(sorted(SafetensorsFile(_IDENTITY).shapes("directions.")))
    except PIDiffError:  # the error is Load PIDiff Mini's
        return ()
