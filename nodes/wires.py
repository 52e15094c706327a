"""The pack's own wire types, and the one difference between host versions that schemas meet."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

PidiffModel = io.Custom("PIDIFF_MODEL")
PidiffWPlus = io.Custom("PIDIFF_WPLUS")

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """An io.Schema of the fields that this host knows; `search_aliases`, for one, came in January 2026."""
    return io.Schema(**{name: value for name, value in fields.items() if name in _KNOWN})
