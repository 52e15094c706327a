"""A browser page for every test of the front end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.front_end import new_page


@pytest.fixture
def has_touch() -> bool:
    """Whether the page is on a touch screen; a test sets it with `parametrize`."""
    return False


@pytest.fixture
def page(tmp_path: Path, has_touch: bool) -> Iterator:
    """A fresh browser page with a profile of its own, see `front_end.new_page`."""
    with new_page(tmp_path / "profile", has_touch=has_touch) as page:
        yield page
