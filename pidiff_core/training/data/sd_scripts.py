"""The data set TOML of sd-scripts, which many people have: which folders it names, with what captions and repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PIDiffError


@dataclass(frozen=True)
class Subset:
    """One folder of a data set."""

    folder: Path
    repeats: int = 1
    caption: str | None = None  # class_tokens: the caption of photos without a caption file
    caption_extension: str | None = None


def read_subsets(path: Path) -> list[Subset]:
    """The subsets of a data set TOML ([general], [[datasets]], [[datasets.subsets]]).

    Read are image_dir (relative to the file), num_repeats, class_tokens and caption_extension, each from the subset,
    its data set or [general]. Resolution, batch size and buckets are those of this project's configuration.

    Raises:
        PIDiffError: not TOML, no subset, or a subset without a folder of photos.
    """
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PIDiffError(f"Cannot read {path}: {error.strerror or error}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PIDiffError(f"{path} is not a TOML file ({error}).") from error
    general = content.get("general", {})
    subsets = []
    for dataset in _tables(content, "datasets", path):
        for table in _tables(dataset, "subsets", path):
            merged = general | {key: value for key, value in dataset.items() if key != "subsets"} | table
            folder = merged.get("image_dir")
            if not isinstance(folder, str) or not folder:
                raise PIDiffError(
                    f"A subset in {path} has no image_dir (it has {', '.join(merged) or 'nothing'}). Data sets with "
                    "metadata files are not read: name the folder of photos."
                )
            repeats = merged.get("num_repeats", 1)
            if not isinstance(repeats, int) or repeats < 1:
                raise PIDiffError(f"num_repeats of {folder} in {path} should be 1 or more, but it is {repeats!r}.")
            subsets.append(
                Subset(path.parent / folder, repeats, merged.get("class_tokens"), merged.get("caption_extension"))
            )
    if not subsets:
        raise PIDiffError(f"{path} has no [[datasets.subsets]] with an image_dir.")
    return subsets


def _tables(parent: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    tables = parent.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PIDiffError(f"'{key}' in {path} should be a list of tables ([[{key}]]).")
    return tables
