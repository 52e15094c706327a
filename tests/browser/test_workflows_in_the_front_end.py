"""The shipped graphs, opened by the real front end: nothing missing, nothing unconnected, the same job as the API's."""

from __future__ import annotations

import json

import pytest

from comfy_host import ROOT

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def open_workflow(page, server, name: str) -> None:
    page.goto(f"http://{server.address}/")
    page.wait_for_function("() => !!window.app?.graph", timeout=120_000)
    page.wait_for_function(
        "() => 'ApplyIdentityAdapter' in (window.LiteGraph?.registered_node_types ?? {})", timeout=120_000
    )
    page.evaluate(
        "async (url) => window.app.loadGraphData(await (await fetch(url)).json())",
        f"/api/workflow_templates/pidiff/{name}.json",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_opens_complete(page, server, name, root):
    open_workflow(page, server, name)
    nodes = page.evaluate(
        """() => window.app.graph._nodes.map(node => ({
            type: node.type,
            known: node.type in window.LiteGraph.registered_node_types,
            errors: !!node.has_errors,
            bare: (node.inputs ?? []).filter(slot => slot.link == null && !slot.widget && slot.shape !== 7)
                .map(slot => slot.name),
        }))"""
    )
    assert {node["type"] for node in nodes} >= {"EncodeIdentityW+", "ApplyIdentityAdapter", "KSampler"}
    for node in nodes:
        assert node["known"], f"missing node: {node['type']}"
        assert not node["errors"], node["type"]
        assert not node["bare"], f"unconnected inputs of {node['type']}: {node['bare']}"
    job = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    api = json.loads((root / "workflows" / "api" / f"{name}.json").read_text())
    assert {node_id: (node["class_type"], node["inputs"]) for node_id, node in job.items()} == {
        node_id: (node["class_type"], node["inputs"]) for node_id, node in api.items()
    }
    assert not page.errors
    folder = root / "outputs" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"{name}_{server.host.name}.png")


def test_queueing_from_the_front_end_draws(page, server, photo):
    server.upload_image(photo, name="example.png")
    open_workflow(page, server, "pidiff_mini")
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function("() => window.app.graph.getNodeById(10).imgs?.length === 1", timeout=180_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=ROOT / "outputs" / "browser" / f"pidiff_mini_drawn_{server.host.name}.png")
    assert not page.errors
