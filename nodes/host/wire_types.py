"""The pack's wire types, and schemas for hosts of every version."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

PidiffModel = io.Custom("PIDIFF_MODEL")
PidiffWPlus = io.Custom("PIDIFF_WPLUS")

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(*, advanced: Sequence[str] = (), **fields: Any) -> io.Schema:
    """An io.Schema with the fields that this host knows; for example, `search_aliases` is new in January 2026.

    Args:
        advanced: names of inputs that are folded until the user asks for them. As an argument of an input it is new in
            February 2026; web/js/look.js folds them in older front ends.
        fields: those of io.Schema.
    """
    for declared in fields["inputs"]:
        if declared.id in advanced:
            declared.extra_dict = {**(declared.extra_dict or {}), "advanced": True}
    return io.Schema(**{name: value for name, value in fields.items() if name in _KNOWN})
