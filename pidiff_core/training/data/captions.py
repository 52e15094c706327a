"""Captions: a text file for each photo, or a template."""

from __future__ import annotations

from pathlib import Path

from ...errors import PIDiffError


def read_caption(photo: Path, *, extension: str, encoding: str) -> str | None:
    """The text of a photo's caption file (photo.txt or photo.jpg.txt) on one line; None if there is no file.

    Raises:
        PIDiffError: the file is not in this encoding.
    """
    for path in (photo.with_suffix(extension), photo.with_name(photo.name + extension)):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what Windows' editor calls "Unicode"
            encoding = "utf-16"
        try:
            return " ".join(data.decode(encoding).split())
        except LookupError as error:
            raise PIDiffError(f"Unknown text encoding '{encoding}'. Use utf-8, cp1252, gb18030 ...") from error
        except UnicodeDecodeError as error:
            raise PIDiffError(
                f"The caption {path} is not in {encoding} (byte {data[error.start]:#04x} at {error.start}). Save it as "
                "UTF-8, or name the encoding of your captions: --prepare.caption_encoding cp1252"
            ) from error
    return None


def check_template(template: str) -> str:
    """Return the template; PIDiffError if it has fields other than {folder} and {name}."""
    fill_template(template, Path("folder/name.png"))
    return template


def fill_template(template: str, photo: Path) -> str:
    """The caption of a photo without a caption file: {folder} and {name} are read as words (anna_2 -> anna 2)."""
    words = {"folder": photo.parent.name, "name": photo.stem}
    try:
        return template.format(**{field: word.replace("_", " ") for field, word in words.items()})
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise PIDiffError(
            f"The caption template '{template}' cannot be filled ({type(error).__name__}: {error}). It may hold "
            "{folder} and {name}."
        ) from error
