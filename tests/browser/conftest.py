"""The real front end in headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import browser


@pytest.fixture
def has_touch() -> bool:
    """Whether the page is on a touch screen; a test sets it with `parametrize`."""
    return False


@pytest.fixture
def page(tmp_path: Path, has_touch: bool) -> Iterator:
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
            has_touch=has_touch,
        )
        page = context.pages[0] if context.pages else context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        context.close()


@pytest.fixture
def load_graph(page) -> Callable[[str | dict], None]:
    """(graph) -> loads a graph into the open front end: a shipped one's name or a serialised one."""

    def loaded(graph: str | dict) -> None:
        page.evaluate(
            """async (graph) => window.app.loadGraphData(
                typeof graph === "string" ? await (await fetch(graph)).json() : graph
            )""",
            f"/api/workflow_templates/pidiff/{graph}.json" if isinstance(graph, str) else graph,
        )

    return loaded


@pytest.fixture
def open_graph(page, load_graph) -> Callable[..., None]:
    """(server, graph, **settings) -> opens the front end and loads a graph as `load_graph` does."""

    def opened(server, graph: str | dict, **settings: bool | str) -> None:
        # The server keeps settings: each test sets those of the others, too. No template browser at the first visit.
        settings = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.VueNodes.Enabled": False} | settings
        address = f"http://{server.address}"
        body = json.dumps(settings).encode()
        urlopen(Request(f"{address}/api/settings", body, {"Content-Type": "application/json"}))
        page.goto(address)
        # The front end first opens the workflow that was open last: one loaded before that is replaced by it.
        page.wait_for_function("() => !!window.app?.extensionManager?.workflow?.activeWorkflow", timeout=120_000)
        load_graph(graph)

    return opened
