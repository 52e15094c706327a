"""Which files hold W+ codes, and what they say of themselves: read off the file's head, no numbers are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .checkpoint import METADATA_KEY
from .codes import KIND
from .errors import PIDiffError
from .wplus import WPlusSpace

_HASH_CHARACTERS = 12  # of a photo's SHA-256 in a listing
_HASHES = 4  # shown; the rest are counted


@dataclass(frozen=True)
class CodesFile:
    """A file of `codes.save_codes`."""

    name: str  # as the user knows it
    space: WPlusSpace
    people: int  # B
    source: str
    encoder: str  # "" where nobody recorded it
    pictures: tuple[str, ...]  # the SHA-256 of every photo that the codes were read from, where recorded
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
    """What a file says of itself; None where it is no file of `codes.save_codes`, or a damaged one."""
    try:
        saved = datetime.fromtimestamp(path.stat().st_mtime)
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})[METADATA_KEY])
            if config["kind"] != KIND:
                return None
            people = file.get_slice("codes").get_shape()[0]
        origin = config["origin"]
        return CodesFile(
            name=name or path.name,
            space=WPlusSpace(**config["space"]),
            people=people,
            source=str(config["source"]),
            encoder=str(origin.get("encoder", "")),
            pictures=tuple(_hash_of(photo) for photo in origin.get("photos", ())),
            saved=saved,
        )
    except (PIDiffError, OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _hash_of(photo: dict[str, Any]) -> str:
    return str(photo["picture_sha256"])


def listing(files: Sequence[CodesFile]) -> str:
    """For people: a block of lines for each file, an empty line between."""
    return "\n\n".join(map(str, files))
