"""The files of prepared data: what is in a shard, which photos go into which, and the index over all of them.

settings.safetensors   what everything else depends on: base, encoder, sizes; the average code and two texts
plans/0000.jsonl       the photos of one run's listing that no earlier plan has; written before any of them is opened
shards/0000-00012.safetensors   photos 12 * n to 13 * n - 1 of plan 0, with the failures among them
index.jsonl            one line for each prepared photo of the newest listing
failures.csv           one line for each photo that could not be used, with the reason

A plan is fixed before work starts and a shard is written whole or not at all, so that a run that is killed and started
again writes the same files as one that never was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...errors import PIDiffError
from ...files.container import METADATA_KEY
from ...files.whole_files import write_whole
from .listing import Photo

SETTINGS_FILE, INDEX_FILE, FAILURES_FILE, SHEET_FILE = (
    "settings.safetensors", "index.jsonl", "failures.csv", "sheet.jpg",
)  # fmt: skip
SETTINGS_KIND, SHARD_KIND = "prepared-settings", "prepared-shard"
FORMAT = 1  # of all of these files


@dataclass(frozen=True)
class PlannedPhoto:
    """A photo as it was when its plan was made."""

    name: str
    version: tuple[int, int, str]  # see `Photo.version`


@dataclass(frozen=True)
class Chunk:
    """The photos of one shard."""

    shard: str  # the shard's name without its ending
    photos: list[PlannedPhoto]


@dataclass(frozen=True)
class PreparedCrop:
    """A crop in a shard: row `row` of the tensors of its bucket."""

    bucket_px: tuple[int, int]  # height, width
    row: int
    top: int  # of the crop in the resized photo, in px
    left: int
    resized_px: tuple[int, int]


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo in a shard: row `code` of its codes and aligned faces, row `text` of its texts."""

    file: str
    version: tuple[int, int, str]
    code: int
    text: int
    photo_px: tuple[int, int]  # height, width
    crop_to_photo: list[list[float]]  # (3, 3): pixels of the aligned crop -> pixels of the photo
    aligned_px: int
    found_by: str
    crops: list[PreparedCrop]


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used."""

    file: str
    version: tuple[int, int, str]
    reason: str


@dataclass(frozen=True)
class Shard:
    """What one shard holds, without its tensors."""

    photos: list[PreparedPhoto] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the shard's metadata."""
        return {"kind": SHARD_KIND, "format": FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, name: str) -> Shard:
        """Read what `to_json` wrote; PIDiffError for anything else."""
        if values.get("kind") != SHARD_KIND or values.get("format") != FORMAT:
            raise PIDiffError(f"{name} is not a shard that this version reads. Prepare the photos into a new folder.")
        return cls(
            [prepared_photo(photo) for photo in values["photos"]],
            [Failure(one["file"], _version(one["version"]), one["reason"]) for one in values["failures"]],
        )


def prepared_photo(values: Mapping[str, Any]) -> PreparedPhoto:
    """A photo as it is written in the metadata of a shard."""
    crops = [
        PreparedCrop(
            **(crop | {"bucket_px": tuple(crop["bucket_px"]), "resized_px": tuple(crop["resized_px"])})  # type: ignore[arg-type]
        )
        for crop in values["crops"]
    ]
    return PreparedPhoto(
        **(
            dict(values)
            | {"version": _version(values["version"]), "photo_px": tuple(values["photo_px"]), "crops": crops}
        )
    )


@dataclass(frozen=True)
class IndexEntry:
    """A line of the index: a prepared photo, its shard, and what may change without preparing it again."""

    photo: PreparedPhoto
    shard: str
    person: str
    repeats: int = 1


def write_index(folder: Path, entries: list[IndexEntry]) -> None:
    """Write the index in the order of the files' names."""
    ordered = sorted(entries, key=lambda entry: entry.photo.file)
    write_lines(folder / INDEX_FILE, map(asdict, ordered))


def read_index(folder: Path) -> list[IndexEntry]:
    """Read what `write_index` wrote."""
    return [
        IndexEntry(prepared_photo(line["photo"]), line["shard"], line["person"], line["repeats"])
        for line in read_lines(folder / INDEX_FILE)
    ]


def bucket_key(bucket_px: tuple[int, int], what: str) -> str:
    """The key of a bucket's tensor in a shard: "512x768.latents"."""
    return f"{bucket_px[0]}x{bucket_px[1]}.{what}"


def shard_path(folder: Path, shard: str) -> Path:
    """Where a shard is."""
    return folder / "shards" / f"{shard}.safetensors"


def read_plans(folder: Path) -> list[list[PlannedPhoto]]:
    """Every plan in the order in which they were made."""
    paths = sorted((folder / "plans").glob("*.jsonl"))
    return [[PlannedPhoto(line["file"], _version(line["version"])) for line in read_lines(path)] for path in paths]


def add_plan(folder: Path, photos: list[Photo], *, plans: list[list[PlannedPhoto]]) -> list[PlannedPhoto]:
    """Plan those photos that no plan has in their present version, and return them; nothing is written without any."""
    planned = {photo.name: photo.version for plan in plans for photo in plan}
    fresh = [PlannedPhoto(photo.name, photo.version) for photo in photos if planned.get(photo.name) != photo.version]
    if fresh:
        lines = [{"file": photo.name, "version": photo.version} for photo in fresh]
        write_lines(folder / "plans" / f"{len(plans):04}.jsonl", lines)
    return fresh


def chunks_of(plans: list[list[PlannedPhoto]], *, photos_per_shard: int) -> list[Chunk]:
    """All shards that the plans ask for."""
    return [
        Chunk(f"{number:04}-{start // photos_per_shard:05}", plan[start : start + photos_per_shard])
        for number, plan in enumerate(plans)
        for start in range(0, len(plan), photos_per_shard)
    ]


def open_shard(folder: Path, shard: str) -> Any:
    """The open safetensors file of a shard, a context manager; its tensors are read when they are asked for.

    Raises:
        PIDiffError: the shard is missing or cut short.
    """
    path = shard_path(folder, shard)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise PIDiffError(
            f"The shard {path} cannot be read ({error}). Delete it and run prepare again: it then prepares its photos."
        ) from error


def read_shard(folder: Path, shard: str) -> Shard:
    """What a shard holds, without reading its tensors.

    Raises:
        PIDiffError: the shard is missing, cut short or another file.
    """
    with open_shard(folder, shard) as file:
        metadata = file.metadata() or {}
    name = str(shard_path(folder, shard))
    try:
        return Shard.from_json(json.loads(metadata[METADATA_KEY]), name=name)
    except (KeyError, ValueError, TypeError) as error:
        raise PIDiffError(
            f"{name} is not a shard of prepared photos ({error}). Delete it and run prepare again."
        ) from error


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a file whole or not at all; PIDiffError if the disk is full or the folder cannot be written."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())

    try:
        write_whole(path, write)
    except PIDiffError as error:
        raise PIDiffError(f"{error} The finished part is kept; run the same command again to continue.") from error


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON values, one on a line."""
    write_text(path, (json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What `write_lines` wrote."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise PIDiffError(f"Line {number} of {path} is damaged: {error}. Run prepare again.") from error


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed run was writing."""
    for place in (folder, folder / "shards", folder / "plans"):
        for path in place.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _version(values: Any) -> tuple[int, int, str]:
    size_bytes, mtime_ns, caption = values
    return int(size_bytes), int(mtime_ns), str(caption)
