"""The directions that StyleEdit offers: those of the model, and those of the files in models/pidiff."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

from ...pidiff_core.errors import PIDiffError, first_line
from ...pidiff_core.files.cache import FileIdentity, file_identity
from ...pidiff_core.mini.direction_names import direction_names
from ...pidiff_core.model import PIDiffModel
from ...pidiff_core.wplus.direction_files import COMPONENTS_FILE, SUFFIXES, find_direction, load_directions
from ...pidiff_core.wplus.directions import Direction
from ...pidiff_core.wplus.edits import MOST_DIRECTIONS
from .folders import find_pidiff_file, list_pidiff_files, pidiff_folders

NO_DIRECTION = "none"
_LARGEST_FILE = 16 << 20  # bytes: models/pidiff also holds networks, whose suffixes are the same
_MOST_FILES = 64
_MOST_OF_A_FILE = 20  # principal components come by the hundred, the important ones first

_own: WeakKeyDictionary[PIDiffModel, dict[str, Direction]] = WeakKeyDictionary()


def direction_choices() -> list[str]:
    """What the list of the node shows: no direction, mini's directions, and those of the files that are there now."""
    return [NO_DIRECTION, *direction_names(), *_in_files()]


def offered_directions(model: PIDiffModel) -> dict[str, Direction]:
    """The directions of a model's space, by name: its own, then those of files that fit; at most MOST_DIRECTIONS."""
    if model not in _own:
        _own[model] = {name: Direction(name, vector, model.space) for name, vector in model.directions.items()}
    offered = dict(_own[model])
    for name, direction in _in_files().items():
        styles, width = direction.vector.shape
        fits = direction.space in (None, model.space) and styles in (1, model.space.num_styles)
        if fits and width == model.space.width and len(offered) < MOST_DIRECTIONS:
            offered.setdefault(name, direction)
    return offered


def is_none(name: str | None) -> bool:
    """Whether a node's input asks for no direction; None, an input that is linked, may be any of them."""
    return name is not None and name.strip() in ("", NO_DIRECTION)


def offered_or_named(name: str, model: PIDiffModel, *, offered: Mapping[str, Direction]) -> Direction:
    """One of `offered_directions`, else `named_direction`."""
    return offered[name] if name in offered else named_direction(name, model)


def named_direction(name: str, model: PIDiffModel) -> Direction:
    """See `direction_files.find_direction`: one of the model's, or of any file in models/pidiff.

    Raises:
        PIDiffError: an unknown direction.
    """
    return find_direction(
        name.strip(),
        own=model.directions,
        space=model.space,
        find_file=find_pidiff_file,
        known=list_pidiff_files(SUFFIXES),
        searched=pidiff_folders(),
    )


def _in_files() -> dict[str, Direction]:
    """The directions in the small files of models/pidiff; a file is read again only after it has changed."""
    found: dict[str, Direction] = {}
    for name in list_pidiff_files(SUFFIXES)[:_MOST_FILES]:
        try:
            path = find_pidiff_file(name)
            identity = file_identity(path) if path is not None else None
            if path is None or identity is None or identity[0] > _LARGEST_FILE:
                continue
            components = Path(path).with_name(COMPONENTS_FILE)
            beside = file_identity(components) if path.endswith(".csv") and components.is_file() else None
            directions = _read(path, identity, beside)
        except PIDiffError:  # a link that leads out of the folder
            continue
        folder = name.rpartition("/")[0]
        for part, direction in list(directions.items())[:_MOST_OF_A_FILE]:
            inner = part if part.startswith(Path(path).name) else f"{Path(path).name}:{part}"
            found[f"{folder}/{inner}" if folder else inner] = direction
    return found


@lru_cache(maxsize=_MOST_FILES)
def _read(path: str, identity: FileIdentity, beside: FileIdentity | None) -> Mapping[str, Direction]:
    try:
        return load_directions(path)
    except PIDiffError as error:  # another kind of file: it is not offered, and an error if it is asked for
        logging.debug("PIDiff: %s holds no directions (%s)", path, first_line(error))
        return {}
