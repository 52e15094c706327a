"""The one family of errors that PIDiff raises on purpose."""

from __future__ import annotations


class PIDiffError(Exception):
    """What was found, what was expected, and what to do next, in one to three sentences that a user can act on.

    Nodes let it reach the user unwrapped, so the text is the whole interface: name the file, the size, the input.
    """
