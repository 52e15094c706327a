"""The sliders of StyleEdit in the real front end: they change the queued codes and the portrait, and are saved."""

from __future__ import annotations

import json

import pytest

from comfy_host import ROOT
from tests.browser.front_end import open_graph

NAME = "pidiff_edit"
EDIT_NODE = "6"
DRAWN = "() => Number(document.querySelector('.pidiff-edit')?.dataset.drawn ?? 0)"
PIXELS = """() => {
    const image = document.querySelector('.pidiff-edit img');
    const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 64 });
    canvas.getContext('2d').drawImage(image, 0, 0, 64, 64);
    return [...canvas.getContext('2d').getImageData(0, 0, 64, 64).data];
}"""


@pytest.fixture
def open_panel(page):
    """(server, graph) -> the edit workflow, or a serialised graph, with StyleEdit's panel visible."""

    def opened(server, graph=NAME, *, vue=False, locale="en"):
        open_graph(page, server, graph, **{"Comfy.VueNodes.Enabled": vue, "Comfy.Locale": locale})
        page.wait_for_selector(".pidiff-edit", state="attached")
        page.evaluate(
            """() => {
                const [x, y] = window.app.graph.getNodeById(6).pos;
                Object.assign(window.app.canvas.ds, { scale: 0.9, offset: [300 - x, 60 - y] });
                window.app.canvas.setDirty(true, true);
            }"""
        )

    return opened


def queued_edits(page):
    job = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    return json.loads(job[EDIT_NODE]["inputs"]["edits"])


def screenshot(page, name):
    folder = ROOT / "outputs" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes-2"])
def test_sliders_change_the_queued_codes_and_the_portrait_and_are_saved(page, open_panel, server, vue):
    if vue and server.host.name == "0.3.52":
        pytest.skip("ComfyUI 0.3.52 has no Nodes 2.0")
    open_panel(server, vue=vue)
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function(f"({DRAWN})() > 0", timeout=180_000)
    slider = page.locator(".pidiff-edit input[data-slider='direction:glasses']")
    page.wait_for_selector(".pidiff-edit[data-ready=true]", state="attached", timeout=60_000)
    page.wait_for_timeout(1000)
    before, drawn, pixels = queued_edits(page), page.evaluate(DRAWN), page.evaluate(PIXELS)
    assert before["directions"] == {"long hair": 0.8}
    slider.scroll_into_view_if_needed()
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"({DRAWN})() > {drawn}", timeout=60_000)
    page.wait_for_timeout(1500)
    edits = queued_edits(page)
    assert edits["directions"]["long hair"] == 0.8
    assert edits["directions"]["glasses"] > 0
    changed = page.evaluate(PIXELS)
    assert sum(abs(one - two) for one, two in zip(pixels, changed)) / len(pixels) > 1
    took = page.evaluate("() => document.querySelector('.pidiff-edit').dataset.milliseconds")
    print(f"{server.host.name}: {took} ms")
    screenshot(page, f"style_edit_{server.host.name}_{'nodes2' if vue else 'canvas'}.png")

    # Another person's colours, a favourite, undo and redo.
    share = page.locator(".pidiff-edit input[data-slider='mix:fine']")
    share.focus()
    page.keyboard.press("End")
    assert queued_edits(page)["mix"]["fine"] == 1
    page.locator(".pidiff-edit input[type=text]").fill("mine")
    page.keyboard.press("Enter")
    buttons = page.locator(".pidiff-edit nav button")
    buttons.get_by_text("Reset").click()
    nothing = {"directions": {}, "mix": {"coarse": 0, "medium": 0, "fine": 0}}
    assert queued_edits(page) == nothing
    buttons.get_by_text("Undo").click()
    kept = queued_edits(page)
    assert kept["mix"]["fine"] == 1
    buttons.get_by_text("Redo").click()
    assert queued_edits(page) == nothing
    assert buttons.get_by_text("Redo").is_disabled()
    buttons.get_by_text("Undo").click()
    assert queued_edits(page) == kept

    # The workflow file keeps them: the sliders are there before the first run.
    graph = page.evaluate("() => window.app.graph.serialize()")
    open_panel(server, graph, vue=vue)
    assert queued_edits(page) == kept
    amount = page.locator(".pidiff-edit input[data-slider='direction:glasses']").input_value()
    assert float(amount) > 0
    assert page.locator(".pidiff-edit select option[value=mine]").count() == 1
    assert not page.errors


@pytest.fixture
def saved_graph():
    """The edit workflow as the front end saves it after a run: with the sliders of that run."""
    graph = json.loads((ROOT / "workflows" / f"{NAME}.json").read_text())
    (node,) = (node for node in graph["nodes"] if str(node["id"]) == EDIT_NODE)
    edits = [{"name": "glasses", "unit": 0.5, "most": 1.0}]
    node["properties"]["pidiff_sliders"] = {
        "levels": [{"level": "medium", "edits": edits}], "other": True, "people": 1, "more": False,
    }  # fmt: skip
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("has_touch", [True], ids=["touch"])
@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes-2"])
def test_a_finger_drags_a_slider_and_not_the_canvas(page, open_panel, server, saved_graph, vue):
    if vue and server.host.name == "0.3.52":
        pytest.skip("ComfyUI 0.3.52 has no Nodes 2.0")
    open_panel(server, saved_graph, vue=vue)
    slider = page.locator(".pidiff-edit input[data-slider='direction:glasses']")
    slider.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    before = queued_edits(page)
    assert "glasses" not in before["directions"]
    view = "() => [...window.app.canvas.ds.offset, window.app.canvas.ds.scale]"
    place = page.evaluate(view)
    box = slider.bounding_box()
    middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    finger = page.context.new_cdp_session(page)

    def touch(kind, *points):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x in points]})

    touch("touchStart", middle)
    for part in range(1, 11):
        touch("touchMove", middle + box["width"] * 0.025 * part)
    touch("touchEnd")
    page.wait_for_timeout(500)
    edits = queued_edits(page)
    assert 0.4 < edits["directions"]["glasses"] < 0.6  # a quarter of the range -1 .. 1
    assert page.evaluate(view) == place
    page.locator(".pidiff-edit nav button").get_by_text("Undo").tap()
    assert queued_edits(page) == before, "a drag is one step of undo"
    assert not page.errors


@pytest.mark.slow
def test_the_panel_and_the_nodes_are_in_japanese(page, open_panel, server, saved_graph):
    open_panel(server, saved_graph, locale="ja")
    assert page.locator(".pidiff-edit nav button").first.inner_text() == "編集前"
    assert page.locator(".pidiff-edit legend").all_inner_texts() == [
        "中：顔立ちと髪型",
        "その他",
        "別の人物から取り入れる",
    ]
    title = page.evaluate("() => window.LiteGraph.createNode('StyleEdit').title")
    assert title == "PIDiff Style Edit（顔の編集：年齢、笑顔）"
    screenshot(page, f"style_edit_{server.host.name}_ja.png")
    assert not page.errors
