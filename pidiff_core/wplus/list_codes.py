"""Which files hold W+ codes, and what their heads tell about them: no numbers are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import PIDiffError, printable, shortened
from ..files.container import open_container
from .code_files import KIND
from .codes import WPlusSpace

_HASH_CHARACTERS = 12  # of a photo's SHA-256 in a listing
_HASHES = 4  # shown; the rest are counted
_MOST_CHARACTERS = 300  # of a file's own text


@dataclass(frozen=True)
class CodesFile:
    """A file of `code_files.save_codes`."""

    name: str  # as the user knows it
    space: WPlusSpace
    people: int  # B
    source: str
    encoder: str  # "" if it was not recorded
    pictures: tuple[str, ...]  # SHA-256 of every source photo, if recorded
    saved: datetime  # when the file was last written, in local time

    def __str__(self) -> str:
        hashes = ", ".join(picture[:_HASH_CHARACTERS] for picture in self.pictures[:_HASHES])
        more = len(self.pictures) - _HASHES
        facts = [
            str(self.space),
            f"{self.people} {'person' if self.people == 1 else 'people'}",
            f"saved {self.saved:%Y-%m-%d %H:%M}",
            self.source,
            f"encoder: {self.encoder}" if self.encoder else "",
            f"photo SHA-256: {hashes}{f' and {more} more' if more > 0 else ''}" if hashes else "",
        ]
        return "\n  ".join([self.name, *filter(None, facts)])


def describe_codes(path: Path, *, name: str = "") -> CodesFile | None:
    """What a file's head tells about its codes; None if it is not a file of `save_codes`, or a damaged one."""
    try:
        saved = datetime.fromtimestamp(path.stat().st_mtime)
        file, config = open_container(path, kind=KIND)
        origin = config["origin"]
        photos = origin.get("photos")
        return CodesFile(
            name=printable(name or path.name),
            space=WPlusSpace(**config["space"]),
            people=file.shapes()["codes"].shape[0],
            source=_text(config["source"]),
            encoder=_text(origin.get("encoder", "")),
            pictures=tuple(_text(photo["picture_sha256"]) for photo in photos) if isinstance(photos, list) else (),
            saved=saved,
        )
    except (PIDiffError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def listing(files: Sequence[CodesFile]) -> str:
    """A block of lines for each file, an empty line between."""
    return "\n\n".join(map(str, files))


def _text(value: object) -> str:
    return printable(shortened(str(value), _MOST_CHARACTERS))
