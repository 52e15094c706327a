"""The one family of errors that PIDiff raises on purpose, and the errors of others that it must never catch.

Code that reads files of strangers, or calls optional packages, has to expect any exception. `passes_through` decides
which of them are not about the file or the package at all: memory that ran out, and the user's Cancel.
"""

from __future__ import annotations

import errno
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_MOST_CHARACTERS = 4000  # of a whole sentence
_QUOTED_CHARACTERS = 80  # of one name or value in it
_LINE_CHARACTERS = 120  # of another library's message
_LISTED = 8  # names in a list; the rest are counted


class PIDiffError(Exception):
    """What was found, what was expected, and what to do next, in one to three sentences that a user can act on.

    Nodes let it reach the user unwrapped, so the text is the whole interface: name the file, the size, the input. The
    text may quote anything: it is made printable here, because a lone surrogate in an error ends ComfyUI's worker.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(shortened(message, _MOST_CHARACTERS)))


def printable(text: str) -> str:
    r"""Text that every console and every encoder takes: control characters and lone surrogates become \x.. and \u....

    So do characters that the encoding of this process's log lacks: ComfyUI writes errors there, strictly encoded.
    """
    escaped = "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        else character
        for character in text
    )
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    try:
        return escaped.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # an encoding that Python does not know
        return escaped


def shortened(text: str, most: int = _QUOTED_CHARACTERS) -> str:
    """The first `most` characters, with dots if there are more."""
    return text if len(text) <= most else text[:most] + "..."


def quoted(text: object) -> str:
    """A user's text, or a file's, in quotation marks, shortened and printable."""
    return f"'{printable(shortened(str(text)))}'"


def first_line(error: BaseException) -> str:
    """The first line of another library's error, shortened: some print many lines, or the file."""
    return printable(shortened(str(error).strip().partition("\n")[0], _LINE_CHARACTERS))


def listed(names: Iterable[Any], *, most: int = _LISTED) -> str:
    """The first names, shortened and printable, and how many more there are."""
    names = [str(name) for name in names]
    shown = ", ".join(printable(shortened(name)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


# How torch, ONNX Runtime and C++ say that memory ran out in a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate", "bad_alloc")

_interrupts: tuple[type[BaseException], ...] = ()
_ask_host: Callable[[], None] = lambda: None  # noqa: E731 (replaced by `register_host`)


def register_host(check_interrupted: Callable[[], None], *interrupts: type[BaseException]) -> None:
    """Tell the core how the host asks for an interrupt: called once, when the nodes are loaded.

    Args:
        check_interrupted: raises one of `interrupts` if the user has cancelled.
        interrupts: exceptions that are never caught.
    """
    global _ask_host, _interrupts
    _ask_host, _interrupts = check_interrupted, interrupts


def check_interrupted() -> None:
    """Raise the host's interrupt if the user has cancelled. Call it before every piece of work of up to a second."""
    _ask_host()


def passes_through(error: BaseException) -> bool:
    """Whether an error is about the machine or the user's Cancel, so that no handler may take it for anything else.

    True for an interrupt of the host or the keyboard, and for memory that ran out, on the CPU or a GPU, also if it is
    only the cause of `error`.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if not isinstance(link, Exception) or isinstance(link, (MemoryError, *_interrupts)):
            return True
        if type(link).__name__ == "OutOfMemoryError" or (isinstance(link, OSError) and link.errno == errno.ENOMEM):
            return True
        if isinstance(link, RuntimeError) and any(words in str(link).lower() for words in _OUT_OF_MEMORY):
            return True
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


@contextmanager
def explained(explain: Callable[[Exception], str]) -> Iterator[None]:
    """Turn any error of foreign code inside the block into a PIDiffError with the sentence that `explain` makes of it.

    PIDiffErrors, interrupts and memory that ran out (`passes_through`) go on as they are.
    """
    try:
        yield
    except PIDiffError:
        raise
    except Exception as error:
        if passes_through(error):
            raise
        raise PIDiffError(explain(error)) from error
