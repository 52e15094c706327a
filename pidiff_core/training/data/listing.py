"""The listing: every photo of the folder with its caption and its person, before any of them is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...errors import PIDiffError
from .captions import check_template, fill_template, read_caption
from .options import PrepareOptions
from .people import People
from .sd_scripts import Subset, read_subsets


@dataclass(frozen=True)
class Photo:
    """One file of the listing."""

    name: str  # its name in the index: path below the photo folder, with slashes
    path: Path
    size_bytes: int
    mtime_ns: int
    caption: str
    person: str
    repeats: int = 1

    @property
    def version(self) -> tuple[int, int, str]:
        """What the prepared data depends on: a photo of another version is prepared again."""
        return self.size_bytes, self.mtime_ns, self.caption


@dataclass(frozen=True)
class Listing:
    """What was found in the folder."""

    photos: list[Photo]  # sorted by name
    notes: list[str] = field(default_factory=list)  # what was skipped, in sentences


def list_photos(options: PrepareOptions) -> Listing:
    """Every photo of `options.photos`, in the order of the names.

    Hidden files and folders are skipped; links to folders are not followed.

    Raises:
        PIDiffError: no folder, no photos in it, a caption that cannot be read, or a wrong table of people.
    """
    source = Path(options.photos)
    if not options.photos or not source.exists():
        raise PIDiffError(f"The folder of photos '{options.photos}' was not found. Give it as --prepare.photos FOLDER.")
    check_template(options.caption)
    is_folder = source.is_dir()
    subsets = [Subset(source)] if is_folder else read_subsets(source)
    people = People(options.people)
    photos: dict[str, Photo] = {}
    others = 0
    for subset in subsets:
        if not subset.folder.is_dir():
            raise PIDiffError(f"{subset.folder}, listed in {source}, is not a folder of photos.")
        for path in _files(subset.folder):
            if path.suffix.lower() not in _suffixes():
                others += path.suffix.lower() not in (options.caption_extension, ".csv", ".toml", ".npz", ".json")
                continue
            inside = path.relative_to(subset.folder).as_posix()
            name = inside if is_folder else f"{subset.folder.name}/{inside}"
            if name in photos:
                continue  # two subsets with the same folder
            status = path.stat()
            caption = read_caption(
                path,
                extension=subset.caption_extension or options.caption_extension,
                encoding=options.caption_encoding,
            )
            if caption is None:
                caption = fill_template(subset.caption or options.caption, path)
            photos[name] = Photo(
                name, path, status.st_size, status.st_mtime_ns, caption, people.person_of(name), subset.repeats
            )
    if not photos:
        raise PIDiffError(
            f"There are no photos in {source} ({others} other files). Put PNG, JPEG or WebP files there; subfolders "
            "are searched too."
        )
    notes = []
    if others:
        notes.append(f"{others} files are not pictures and are skipped.")
    if unused := people.unused():
        notes.append(f"{options.people} lists {len(unused)} files that are not in {source}, for example {unused[0]}.")
    return Listing([photos[name] for name in sorted(photos)], notes)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent) / name


def _suffixes() -> set[str]:
    """The endings of the formats that Pillow reads, in lower case."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
