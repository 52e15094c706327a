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


def slider(name: str, tooltip: str, *, least: float = 0.0, most: float, optional: bool = False) -> io.Float.Input:
    """A number input with a slider, in steps of 0.05, 1 by default."""
    return io.Float.Input(
        name,
        default=1.0,
        min=least,
        max=most,
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        optional=optional,
        tooltip=tooltip,
    )


def fraction(name: str, default: float, tooltip: str, *, optional: bool = False) -> io.Float.Input:
    """A number input from 0 to 1, in steps of 0.01."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, optional=optional, tooltip=tooltip)
