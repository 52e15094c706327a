"""The real front end in headless Chromium: a page, and graphs that are opened in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import browser


@contextmanager
def new_page(profile: Path, *, has_touch: bool = False) -> Iterator:
    """A browser page with a new profile in this folder; `page.errors` collects what its scripts raise."""
    executable = browser.find_browser()
    if executable is None:
        pytest.skip("there is no Chromium on this machine (PIDIFF_CHROMIUM names one)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Closed before the test or fixture ends: while Playwright's loop lives in this thread, no other asyncio.run can.
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=executable,
            args=list(browser.ARGUMENTS),
            viewport={"width": 1600, "height": 900},
            has_touch=has_touch,
        )
        page = context.pages[0] if context.pages else context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        context.close()


def load_graph(page, graph: str | dict) -> None:
    """Load a graph into the open front end: a shipped one's name or a serialised one."""
    page.evaluate(
        """async (graph) => window.app.loadGraphData(
            typeof graph === "string" ? await (await fetch(graph)).json() : graph
        )""",
        f"/api/workflow_templates/pidiff/{graph}.json" if isinstance(graph, str) else graph,
    )


def open_graph(page, server, graph: str | dict, **settings: bool | str) -> None:
    """Open the server's front end, with these settings of ComfyUI, and load a graph as `load_graph` does."""
    # The server keeps settings: each test sets those of the others, too. No template browser at the first visit.
    settings = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.VueNodes.Enabled": False} | settings
    address = f"http://{server.address}"
    body = json.dumps(settings).encode()
    urlopen(Request(f"{address}/api/settings", body, {"Content-Type": "application/json"}))
    page.goto(address)
    # The front end first opens the workflow that was open last: one loaded before that is replaced by it.
    page.wait_for_function("() => !!window.app?.extensionManager?.workflow?.activeWorkflow", timeout=120_000)
    load_graph(page, graph)
