"""Who is on which photo: codes in training come from another photo of the same person."""

from __future__ import annotations

import csv
from pathlib import Path

from ...errors import PIDiffError

PHOTOS, SUBFOLDERS = "photos", "subfolders"


class People:
    """Names the person of each photo.

    Args:
        choice: "photos", "subfolders", or the path of a CSV file with the columns file and person. Its separator may be
            a comma, a semicolon or a tab; a head line is optional.

    Raises:
        PIDiffError: no such choice or file, or a line without two columns.
    """

    def __init__(self, choice: str) -> None:
        self.choice = choice
        self._by_file = {} if choice in (PHOTOS, SUBFOLDERS) else _read_csv(Path(choice))
        self._seen: set[str] = set()

    def person_of(self, name: str) -> str:
        """The person on the photo of this name (path below the photo folder, with slashes).

        A photo that the CSV does not list, and with "subfolders" one that is in no subfolder, is its own person.
        """
        if self.choice == SUBFOLDERS:
            folder, _, _ = name.rpartition("/")
            return f"folder {folder}" if folder else f"photo {name}"
        if name in self._by_file:
            self._seen.add(name)
            return f"person {self._by_file[name]}"
        return f"photo {name}"

    def unused(self) -> list[str]:
        """Files that the CSV lists and that no photo has been asked for."""
        return sorted(set(self._by_file) - self._seen)


def _read_csv(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PIDiffError(
            f"prepare.people should be '{PHOTOS}', '{SUBFOLDERS}' or a CSV file, but {path} cannot be read "
            f"({error.strerror or error})."
        ) from error
    except UnicodeDecodeError as error:
        raise PIDiffError(f"{path} is not UTF-8. Save the table as UTF-8 CSV.") from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    people: dict[str, str] = {}
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=separator), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and [cell.lower() for cell in cells[:2]] == ["file", "person"]):
            continue
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise PIDiffError(f"Line {number} of {path} should be 'file,person', but it is '{separator.join(row)}'.")
        people[cells[0].replace("\\", "/").removeprefix("./")] = cells[1]
    return people
