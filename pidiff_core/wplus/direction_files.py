"""Directions as files, in the layouts that are in circulation, and the direction that a user names.

(S, D) or (1, D) arrays and tensors (.npy, .pt, .pth); lists of (1, S, D) tensors; GANSpace's principal components
(`mean`, `comp`, `std`), where one step is one standard deviation along a component (Harkonen et al. 2020); and the
tables of named edits (encoder4editing, W+ Adapter), which move a code to a coordinate, not by so many
standard deviations: delta = (strength - (w_0 - mean) . comp / std) * comp * std, with the code's first style as w_0.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import PIDiffError, listed, quoted
from ..files.arrays import load_array
from ..files.container import read_container, write_new_container
from ..files.pickles import load_pickle
from ..files.recognise import existing_file, file_kind
from ..shapes import check_shape
from .codes import WPlusSpace
from .directions import Direction, Goal

OWN_SUFFIX = ".directions.safetensors"  # with all of it: models/pidiff has other safetensors files, too
SUFFIXES = (".npy", ".pt", ".pth", ".csv", OWN_SUFFIX)
KIND = "directions"
COMPONENTS_FILE = "ffhq_pca.pt"  # in the folder of a table of named edits
_LISTED = 12  # names in an error; the rest are counted
_MOST_TABLE_BYTES = 1 << 20
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def find_direction(
    name: str,
    *,
    own: Mapping[str, Tensor],
    space: WPlusSpace,
    find_file: Callable[[str], str | None],
    known: Sequence[str] = (),
    searched: Sequence[str] = (),
) -> Direction:
    """The direction called `name`, without regard to case, to a file's suffix, and to "_" or "-" instead of spaces.

    Args:
        name: one of `own`, or a file's name, with ":2" for the third of several in it, or ":name".
        own: the model's directions by name, all of `space`.
        find_file: a file's name -> its path, or None.
        known: the files there are, for the error.
        searched: the folders that were searched for them, for the error.

    Raises:
        PIDiffError: no such direction; the sentence suggests the nearest name and lists those that there are.
    """
    if own_name := _alike(name, own):
        return Direction(own_name, own[own_name], space)
    path, part = find_file(name), ""
    if path is None:
        file, _, part = name.partition(":")
        path = find_file(file) or find_file(_alike(file, known) or file)
    if path is not None:
        found = load_directions(path)
        if part_name := _alike(part, found):
            return found[part_name]
        numbered = {str(index): direction for index, direction in enumerate(found.values())}
        if (part or "0") in numbered:
            return numbered[part or "0"]
        raise PIDiffError(
            f"{path} has no direction {quoted(part)}. It holds {listed(found, most=_LISTED)}.{_suggestion(part, found)}"
        )
    places = f" (files are searched in {', '.join(searched)})" if searched else ""
    raise PIDiffError(
        f"There is no direction {quoted(name)}.{_suggestion(name, [*own, *known])} "
        f"There are: {listed([*own, *known], most=_LISTED) or 'none'}{places}. "
        "Write one of these names, or put a direction file into models/pidiff."
    )


def _plain(name: str) -> str:
    """A name as it is compared: lower case, no folder and suffix, spaces between words."""
    name = name.strip().casefold().replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[\s_-]+", " ", re.sub(rf"({'|'.join(map(re.escape, SUFFIXES))})$", "", name))


def _alike(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that is meant: itself, or the first that differs in case, suffix or spaces only."""
    names = list(known)
    if name in names:
        return name
    plain = _plain(name)
    return next((candidate for candidate in names if plain and _plain(candidate) == plain), None)


def _suggestion(name: str, known: Iterable[str]) -> str:
    by_plain = {_plain(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_plain(name), by_plain, n=1)
    return f" Did you mean {quoted(by_plain[near[0]])}?" if near else ""


def load_directions(path: str | os.PathLike[str]) -> dict[str, Direction]:
    """All directions in a file, by name: the file's own, with ":0", ":1" ... if it holds several.

    Raises:
        PIDiffError: a damaged file, or one without directions.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        return _own(path)
    if path.suffix.lower() == ".csv":
        components_path = path.with_name(COMPONENTS_FILE)
        if components_path.resolve().parent != path.resolve().parent:
            raise PIDiffError(
                f"{components_path} is a link to another folder. Copy the file itself to the table's folder."
            )
        return _ganspace_table(path, components_path)
    content = load_array(path) if file_kind(path) == "npy" else load_pickle(path)
    if isinstance(content, dict):
        vectors = [component.vector for component in _components(content, path)]
    elif isinstance(content, list | tuple):
        vectors = list(content)
    else:
        vectors = [content]
    if not vectors or not all(isinstance(vector, Tensor) and vector.is_floating_point() for vector in vectors):
        raise PIDiffError(f"{path} holds no directions: tensors of (S, D) or (1, D), or a list of them, are expected.")
    if len(vectors) == 1:
        return {path.name: Direction(path.name, vectors[0])}
    return {f"{path.name}:{index}": Direction(f"{path.name}:{index}", vector) for index, vector in enumerate(vectors)}


def save_directions(
    folder: str | os.PathLike[str], name: str, directions: Sequence[Direction], *, space: WPlusSpace
) -> Path:
    """Write named directions into one new file, `name.directions.safetensors`; a number is added if it exists.

    Args:
        folder: where to; it is made.
        name: of the file, without suffix.
        directions: of this space, without goals; their names are kept.
        space: recorded, so that codes of another space are refused.

    Returns:
        The path of the file.

    Raises:
        PIDiffError: the file cannot be written, or two directions have one name.
    """
    names = [direction.name for direction in directions]
    if len(set(names)) < len(names):
        raise PIDiffError(f"Two directions have the same name: {listed(sorted(names))}. Use another name.")
    tensors = {f"direction.{number}": direction.vector for number, direction in enumerate(directions)}
    config = {"space": dataclasses.asdict(space), "names": names}
    number = 1
    while True:
        path = Path(folder) / f"{name}{f'_{number}' if number > 1 else ''}{OWN_SUFFIX}"
        if write_new_container(path, tensors, kind=KIND, config=config):
            return path
        number += 1


def _own(path: Path) -> dict[str, Direction]:
    """What `save_directions` wrote."""
    tensors, config = read_container(path, kind=KIND)
    try:
        space = WPlusSpace(**config["space"])
        names = [str(name) for name in config["names"]]
        return {name: Direction(name, tensors[f"direction.{number}"], space) for number, name in enumerate(names)}
    except (KeyError, TypeError, ValueError) as error:
        raise PIDiffError(f"The directions in {path} are incomplete ({error}). Save them again.") from error


def _ganspace_table(path: Path, components_path: Path) -> dict[str, Direction]:
    """`name  component  first_style  end_style  strength` in every line; the end style is not touched.

    As published with tabs between, or as spreadsheet programs write it again: with semicolons, commas and quotation
    marks, a byte order mark, decimal commas, a line of headings.
    """
    components = _components(load_pickle(components_path), components_path)
    edits = {}
    lines = _text_of(path).splitlines()
    separator = next((mark for mark in "\t;," if any(line.count(mark) >= 4 for line in lines)), "\t")
    for number, line in enumerate(lines, start=1):
        if not line.strip(" \t;,"):
            continue
        name, *fields = (field.strip().strip('"').strip() for field in line.split(separator))
        while len(fields) > 4 and not fields[-1]:
            fields.pop()  # empty columns
        if number == 1 and len(fields) >= 4 and not any(re.search(r"\d", field) for field in fields[:4]):
            continue  # headings
        try:
            index, first, end = (int(field) for field in fields[:3])
            strength = float(fields[3].replace(",", "."))
            if not 0 <= index < len(components) or first < 0 or end < first or len(fields) > 4:
                raise ValueError
            if not math.isfinite(strength):
                raise ValueError
            component = components[index]
        except (ValueError, IndexError):
            raise PIDiffError(
                f"Line {number} of {path} should be 'name, component, first style, end style, strength' with tabs or "
                f"semicolons between, and a component from 0 to {len(components) - 1}, but it is {quoted(line)}."
            ) from None
        goal = Goal(strength, component.mean, component.measure)
        edits[name] = Direction(name, component.vector, styles=(first, end), goal=goal)
    if not edits:
        raise PIDiffError(f"The table {path} has no lines. Copy or download it again.")
    return edits


def _text_of(path: Path) -> str:
    """A table's text: UTF-8 with or without a byte order mark, UTF-16, or what Western spreadsheets save."""
    try:
        with existing_file(path).open("rb") as file:
            data = file.read(_MOST_TABLE_BYTES + 1)
    except OSError as error:
        raise PIDiffError(f"Cannot read the table {path}: {error.strerror or error}.") from error
    if len(data) > _MOST_TABLE_BYTES:
        raise PIDiffError(f"The table {path} is larger than {_MOST_TABLE_BYTES} bytes. Give a table of named edits.")
    marked = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", "cp1252"]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise PIDiffError(f"Cannot read the table {path}: it is not text in UTF-8. Save it again as 'CSV UTF-8'.")


class _Component(NamedTuple):
    """A principal component of GANSpace: vector (1, D) is one standard deviation; mean and measure as in `Goal`."""

    vector: Tensor
    mean: Tensor
    measure: Tensor


def _components(content: Any, path: Path) -> list[_Component]:
    keys = list(content) if isinstance(content, dict) else []
    if not all(key in keys and isinstance(content[key], Tensor) for key in ("mean", "comp", "std")):
        raise PIDiffError(
            f"{path} should hold GANSpace's components, a dictionary of the tensors mean, comp and std, but it holds a "
            f"{type(content).__name__}{' with ' + listed(keys) if keys else ''}."
        )
    mean, comp, std = (content[key].float() for key in ("mean", "comp", "std"))
    sizes = check_shape(comp, "N 1 D", name=f"comp in {path}")
    check_shape(mean, f"1 {sizes['D']}", name=f"mean in {path}")
    check_shape(std, str(sizes["N"]), name=f"std in {path}")
    if not (std > 0).all():
        raise PIDiffError(f"std in {path} should hold positive numbers. Download the file again.")
    return [_Component(vector * spread, mean[0], vector[0] / spread) for vector, spread in zip(comp, std)]
