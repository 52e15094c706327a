"""Reading a configuration: presets below a TOML file, the command line above it; validated whole before work starts."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import PIDiffError
from .config import Config

_Table = TypeVar("_Table")
PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(
    *, preset: str | None = None, file: str | Path | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> Config:
    """Defaults, then a preset, then a TOML file, then overrides.

    Args:
        preset: one of `preset_names()`.
        file: a TOML file; it may name its own preset with `preset = "sdxl"` at the top.
        overrides: ("table.key", value as text), as on the command line.

    Raises:
        PIDiffError: an unknown table or key (with the nearest known one), a value of another type, a file that is not
            TOML.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read(Path(file))
        preset = preset or values.pop("preset", None)
        values.pop("preset", None)
    layers = [_preset(preset)] if preset else []
    merged: dict[str, Any] = {}
    for layer in (*layers, values):
        _merge(merged, layer)
    for key, text in overrides:
        table, dot, name = key.partition(".")
        if not dot:
            raise PIDiffError(f"'{key}' is not a setting: expected table.key, such as localise.steps.{_nearest(key)}")
        _merge(merged, {table: {name: _from_text(text)}})
    return _build(Config, merged, "")


def dump(config: Any) -> str:
    """The whole configuration as TOML, with what each key means."""
    lines = []
    for table in fields(config):
        part = getattr(config, table.name)
        lines.append(f"[{table.name}]")
        lines += [f"{one.name} = {_to_text(getattr(part, one.name))}" for one in fields(part)]
        lines.append("")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PIDiffError(f"Cannot read {path}: {error.strerror or error}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise PIDiffError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise PIDiffError(f"{path} is not valid TOML: {error}.") from error


def _preset(name: str) -> dict[str, Any]:
    path = PRESETS / f"{name}.toml"
    if not path.is_file():
        raise PIDiffError(f"The preset is '{name}': expected one of {', '.join(preset_names())}.")
    return _read(path)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _build(cls: type[_Table], values: Mapping[str, Any], name: str) -> _Table:
    known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    types_of = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        path = f"{name}.{key}" if name else key
        if key not in known:
            what = "setting" if name else "table"
            raise PIDiffError(f"'{path}' is not a {what} of the configuration.{_nearest(path)}")
        wanted = types_of[key]
        if is_dataclass(wanted):
            if not isinstance(value, Mapping):
                raise PIDiffError(f"'{path}' is a table: write [{path}] and its settings below it.")
            arguments[key] = _build(typing.cast("type[Any]", wanted), value, path)
        else:
            arguments[key] = _typed(value, wanted, path)
    return cls(**arguments)


def _nearest(path: str) -> str:
    known = [table.name for table in fields(Config)]
    hints = typing.get_type_hints(Config)
    known += [f"{table}.{one.name}" for table in list(known) for one in fields(hints[table])]
    if "." not in path:
        known += [one.partition(".")[2] for one in known if "." in one]
    found = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    if not found and "." in path:  # the right key in another table
        key = path.rpartition(".")[2]
        found = [one for one in known if one.endswith(f".{key}")][:1]
    return f" Did you mean '{found[0]}'?" if found else f" Known tables: {', '.join(hints)}."


def _typed(value: Any, wanted: Any, path: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple:
        inner = typing.get_args(wanted)
        parts = value if isinstance(value, list | tuple) else [value]
        if inner[-1] is not Ellipsis and len(parts) != len(inner):
            raise PIDiffError(f"'{path}' has {len(parts)} values: expected {len(inner)}.")
        return tuple(_typed(part, inner[0], path) for part in parts)
    right = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool),
        str: isinstance(value, str),
    }.get(wanted, True)
    if not right and wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not right:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise PIDiffError(f"'{path}' is {value!r}: expected {names[wanted]}.")
    return float(value) if wanted is float else value


def _from_text(text: str) -> Any:
    """A value from the command line: TOML's spelling if it is that, else the text itself."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for convert in (int, float, json.loads):
        try:
            return convert(text)
        except ValueError:
            continue
    return [_from_text(part) for part in text.split(",")] if "," in text and " " not in text else text


def _to_text(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
