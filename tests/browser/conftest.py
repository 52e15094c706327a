"""The real front end in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator:
    """A fresh browser page with a profile of its own; `page.errors` collects what its scripts raise."""
    executable = browser.find_browser()
    if executable is None:
        pytest.skip("there is no Chromium on this machine (PIDIFF_CHROMIUM names one)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # One a test, not one a session: while Playwright's loop lives in this thread, no other asyncio.run can.
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=executable,
            args=list(browser.ARGUMENTS),
            viewport={"width": 1600, "height": 900},
        )
        page = context.pages[0] if context.pages else context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        context.close()
