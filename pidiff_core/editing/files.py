"""Directions as files, in the layouts that are in circulation.

(S, D) or (1, D) arrays and tensors (.npy, .pt, .pth); lists of (1, S, D) tensors; GANSpace's principal components
(`mean`, `comp`, `std`), where one step is one standard deviation along a component, and its tables of named edits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import file_kind, load_array, load_pickle
from ..errors import PIDiffError
from ..shapes import check_shape
from .directions import Direction

SUFFIXES = (".npy", ".pt", ".pth", ".csv")
COMPONENTS_FILE = "ffhq_pca.pt"  # stands beside a table of named edits


def load_directions(path: str | os.PathLike[str]) -> dict[str, Direction]:
    """All directions in a file, by name: the file's own, with ":0", ":1" ... where it holds several.

    Raises:
        PIDiffError: a damaged file, or one without directions.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return _ganspace_table(path, load_directions(path.with_name(COMPONENTS_FILE)))
    content = load_array(path) if file_kind(path) == "npy" else load_pickle(path)
    if isinstance(content, dict):
        vectors = _ganspace(content, path)
    elif isinstance(content, list | tuple):
        vectors = list(content)
    else:
        vectors = [content]
    if not vectors or not all(isinstance(vector, Tensor) and vector.is_floating_point() for vector in vectors):
        raise PIDiffError(f"{path} holds no directions: tensors of (S, D) or (1, D), or a list of them, are expected.")
    if len(vectors) == 1:
        return {path.name: Direction(path.name, vectors[0])}
    return {f"{path.name}:{index}": Direction(f"{path.name}:{index}", vector) for index, vector in enumerate(vectors)}


def _ganspace_table(path: Path, components: dict[str, Direction]) -> dict[str, Direction]:
    """`name  component  first_style  end_style  strength` in every line, tabs between; the end style is not touched."""
    numbered = list(components.values())
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
            component, first, end = (int(field) for field in fields[:3])
            source, strength = numbered[component], float(fields[3])
        except (ValueError, IndexError) as error:
            raise PIDiffError(
                f"Line {number} of {path} should be 'name, component, first style, end style, strength' with tabs "
                f"between, and a component below {len(numbered)}, but it is '{line}'."
            ) from error
        edits[name.strip()] = Direction(name.strip(), strength * source.vector, source.space, (first, end))
    return edits


def _ganspace(content: dict[Any, Any], path: Path) -> list[Tensor]:
    if not all(isinstance(content.get(key), Tensor) for key in ("comp", "std")):
        raise PIDiffError(
            f"{path} holds a dictionary with {', '.join(map(str, list(content)[:6]))}, but directions in one are "
            "GANSpace's mean, comp and std."
        )
    number = check_shape(content["comp"], "N 1 D", name=f"comp in {path}")["N"]
    check_shape(content["std"], str(number), name=f"std in {path}")
    return list((content["comp"] * content["std"][:, None, None]).unbind(dim=0))
