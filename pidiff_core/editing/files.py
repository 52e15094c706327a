"""Directions as files, in the layouts that are in circulation.

(S, D) or (1, D) arrays and tensors (.npy, .pt, .pth); lists of (1, S, D) tensors; GANSpace's principal components
(`mean`, `comp`, `std`), where one step is one standard deviation along a component (Harkonen et al. 2020); and the
tables of named edits beside them (encoder4editing, W+ Adapter), which do not move a code by so many standard deviations
but to there: delta = (strength - (w_0 - mean) . comp / std) * comp * std, with the code's first style as w_0.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..checkpoint import file_kind, load_array, load_pickle
from ..errors import PIDiffError
from ..shapes import check_shape
from .directions import Direction, Goal

SUFFIXES = (".npy", ".pt", ".pth", ".csv")
COMPONENTS_FILE = "ffhq_pca.pt"  # stands beside a table of named edits


def load_directions(path: str | os.PathLike[str]) -> dict[str, Direction]:
    """All directions in a file, by name: the file's own, with ":0", ":1" ... where it holds several.

    Raises:
        PIDiffError: a damaged file, or one without directions.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return _ganspace_table(path, path.with_name(COMPONENTS_FILE))
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


def _ganspace_table(path: Path, components_path: Path) -> dict[str, Direction]:
    """`name  component  first_style  end_style  strength` in every line, tabs between; the end style is not touched."""
    components = _components(load_pickle(components_path), components_path)
    edits = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PIDiffError(f"Cannot read the table {path}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, *fields = line.split("\t")
            index, first, end = (int(field) for field in fields[:3])
            component, strength = components[index], float(fields[3])
        except (ValueError, IndexError) as error:
            raise PIDiffError(
                f"Line {number} of {path} should be 'name, component, first style, end style, strength' with tabs "
                f"between, and a component below {len(components)}, but it is '{line}'."
            ) from error
        goal = Goal(strength, component.mean, component.measure)
        edits[name.strip()] = Direction(name.strip(), component.vector, styles=(first, end), goal=goal)
    return edits


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
            f"{type(content).__name__}{' with ' + ', '.join(map(str, keys[:6])) if keys else ''}."
        )
    mean, comp, std = (content[key].float() for key in ("mean", "comp", "std"))
    sizes = check_shape(comp, "N 1 D", name=f"comp in {path}")
    check_shape(mean, f"1 {sizes['D']}", name=f"mean in {path}")
    check_shape(std, str(sizes["N"]), name=f"std in {path}")
    return [_Component(vector * spread, mean[0], vector[0] / spread) for vector, spread in zip(comp, std)]
