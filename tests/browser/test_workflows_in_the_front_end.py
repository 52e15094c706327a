"""The shipped graphs, opened by the real front end: nothing missing, nothing unconnected, the same job as the API's."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

import comfy_host
from comfy_host import ROOT
from tests.browser.front_end import load_graph, new_page, open_graph

PICTURES = ROOT / "outputs" / "browser"
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
in_the_newest = pytest.mark.parametrize("server", [comfy_host.DEFAULT], indirect=True)


# Newer front ends mark the loaders of files that are not there: those of other base models are not.
LOADERS = {
    "CheckpointLoaderSimple", "CLIPLoader", "ControlNetLoader", "LoadPIDiff", "LoraLoader", "LoraLoaderModelOnly",
    "UNETLoader", "VAELoader",
}  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A graph in the front end: its nodes, the job that would be queued, and errors of scripts until then."""

    nodes: list[dict[str, Any]]
    job: dict[str, Any]
    errors: list[str]

    def check_complete(self) -> None:
        """All nodes are known and connected, and none covers another."""
        assert {node["type"] for node in self.nodes} >= {"EncodeIdentityW+", "LoadImage"}
        for node in self.nodes:
            assert node["known"], f"missing node: {node['type']}"
            assert not node["errors"] or node["type"] in LOADERS, node["type"]
            assert not node["bare"], f"unconnected inputs of {node['type']}: {node['bare']}"
        check_apart([(node["title"], node["box"]) for node in self.nodes])
        assert not self.errors


def open_all(server, profile, names) -> dict[str, Opened]:
    """These shipped graphs by name, opened one after another in one page: a page takes seconds to load."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    found = {}
    with new_page(profile) as page:
        open_graph(page, server, names[0])
        page.wait_for_timeout(1000)
        for name in names:
            load_graph(page, name)
            page.wait_for_timeout(300)  # until it is drawn
            nodes = page.evaluate(
                """() => window.app.graph._nodes.map(node => ({
                    type: node.type,
                    known: node.type in window.LiteGraph.registered_node_types,
                    errors: !!node.has_errors,
                    bare: (node.inputs ?? []).filter(slot => slot.link == null && !slot.widget && slot.shape !== 7)
                        .map(slot => slot.name),
                    title: node.title,
                    box: [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
                }))"""
            )
            job = page.evaluate("async () => (await window.app.graphToPrompt()).output")
            page.screenshot(path=PICTURES / f"{name}_{server.host.name}.png")
            found[name] = Opened(nodes, job, list(page.errors))
    return found


def check_apart(boxes) -> None:
    """(title, [left, top, right, bottom]) of each node: none covers another."""
    for (one, first), (two, second) in itertools.combinations(boxes, 2):
        left, top, right, bottom = first
        overlaps = left < second[2] and second[0] < right and top < second[3] and second[1] < bottom
        assert not overlaps, f"'{one}' and '{two}' overlap"


@pytest.fixture(scope="module")
def opened(server, photo, tmp_path_factory):
    server.upload_image(photo, name="example.png")
    # ComfyUI 0.3.52 has no TextEncodeQwenImageEditPlus.
    names = [name for name in NAMES if not (name == "pidiff_reference" and server.host.name == "0.3.52")]
    return open_all(server, tmp_path_factory.mktemp("browser") / "profile", names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_opens_complete(opened, name):
    if name not in opened:
        pytest.skip("a node of ComfyUI is missing in this version")
    opened[name].check_complete()
    api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    assert {node_id: (node["class_type"], node["inputs"]) for node_id, node in opened[name].job.items()} == {
        node_id: (node["class_type"], node["inputs"]) for node_id, node in api.items()
    }


@pytest.mark.slow
@in_the_newest
def test_the_graphs_open_complete_in_nodes_2(page, server):
    """Nodes are elements there, with heights of their own; missing files add a line to them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    open_graph(page, server, NAMES[0], **{"Comfy.VueNodes.Enabled": True})
    for name in NAMES:
        load_graph(page, name)
        expected = {str(node["id"]) for node in json.loads((ROOT / "workflows" / f"{name}.json").read_text())["nodes"]}
        page.wait_for_function(
            "(count) => document.querySelectorAll('[data-node-id]').length === count", arg=len(expected)
        )
        page.wait_for_timeout(600)  # until the heights are known
        boxes = page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map((node) => {
                const { left, top, right, bottom } = node.getBoundingClientRect();
                const scale = window.app.canvas.ds.scale;
                return [node.dataset.nodeId, [left, top, right, bottom].map((value) => Math.round(value / scale))];
            }))"""
        )
        assert set(boxes) == expected, name
        titles = page.evaluate("() => Object.fromEntries(window.app.graph._nodes.map((n) => [n.id, n.title]))")
        check_apart([(f"{name}: {titles[node_id]}", box) for node_id, box in boxes.items()])
        page.screenshot(path=PICTURES / f"{name}_nodes2.png")
    assert not page.errors


@pytest.mark.slow
def test_queueing_from_the_front_end_draws_the_sample_person(page, server):
    open_graph(page, server, "pidiff_mini")
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function("() => window.app.graph.getNodeById(10).imgs?.length === 1", timeout=180_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / f"pidiff_mini_drawn_{server.host.name}.png")
    assert not page.errors


@pytest.mark.slow
def test_a_warning_is_shown_on_its_node_and_goes_with_its_cause(page, server):
    open_graph(page, server, "pidiff_mini")
    apply_node = "window.app.graph.getNodeById(4)"
    set_start = f"(value) => {{ {apply_node}.widgets.find(one => one.name === 'start_percent').value = value }}"
    shown = f"() => {apply_node}.widgets.find(one => one.name === 'pidiff_report')?.element.textContent ?? ''"
    page.evaluate(set_start, 1.0)
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({shown})() !== ''", timeout=180_000)
    assert page.evaluate(shown).startswith("⚠ No identity: start_percent (1) is not below end_percent (1).")
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / f"warning_{server.host.name}.png")
    page.evaluate(set_start, 0.0)
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({shown})() === ''", timeout=180_000)
    assert not page.errors


def put_blueprint(page, server, name, *, into, kept):
    """Open a shipped workflow with the nodes `kept` alone, and put one of `subgraphs/` in from the search box."""
    graph = json.loads((ROOT / "workflows" / f"{into}.json").read_text())
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] in kept]
    graph["links"] = [link for link in graph["links"] if link[1] in kept and link[3] in kept]
    open_graph(page, server, graph)
    page.wait_for_timeout(1000)
    page.mouse.dblclick(800, 750)
    page.wait_for_timeout(1000)
    page.keyboard.type(name.removeprefix("PIDiff "), delay=10)
    page.get_by_text(name).first.wait_for()
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    page.mouse.click(810, 760)  # puts the node down
    page.wait_for_function(f"() => window.app.graph._nodes.some((node) => node.title === '{name}')")


@pytest.mark.slow
@in_the_newest
def test_the_blueprint_is_found_by_search_and_draws_the_sample_person(page, server):
    """`subgraphs/`: put into a graph from the search box, in place of the two nodes that it has inside."""
    put_blueprint(page, server, "PIDiff Photo to Person", into="pidiff_mini", kept=(1, 2, 5, 6, 7, 8, 9, 10))
    shown = page.evaluate(
        """() => {
            const graph = window.app.graph;
            const person = graph._nodes.find((node) => node.title === 'PIDiff Photo to Person');
            graph.getNodeById(1).connect(0, person, 'model');
            graph.getNodeById(1).connect(3, person, 'pidiff_model');
            graph.getNodeById(2).connect(0, person, 'image');
            person.connect(0, graph.getNodeById(8), 'model');
            return [person.widgets.map((widget) => widget.name), person.outputs.map((output) => output.name)];
        }"""
    )
    assert shown == [["strength", "start_percent", "preset", "on_no_face"], ["model", "wplus", "aligned"]]
    job = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    inside = {node_id.split(":")[-1]: (node_id, node) for node_id, node in job.items() if ":" in node_id}
    api = json.loads((ROOT / "workflows" / "api" / "pidiff_mini.json").read_text())
    assert set(inside) == {"3", "4"}
    assert job["8"]["inputs"]["model"] == [inside["4"][0], 0]
    for node_id, (_, node) in inside.items():
        expected = {**api[node_id]["inputs"]}
        if "wplus" in expected:
            expected["wplus"] = [inside["3"][0], 0]
        assert (node["class_type"], node["inputs"]) == (api[node_id]["class_type"], expected)
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function("() => window.app.graph.getNodeById(10).imgs?.length === 1", timeout=180_000)
    page.screenshot(path=PICTURES / f"blueprint_{server.host.name}.png")
    assert not page.errors


@pytest.mark.slow
@in_the_newest
def test_the_blueprint_for_edits_draws_the_edited_sample_person(page, server):
    """Its direction and amount, on the outside, reach Style Edit inside; the second person need not be there."""
    put_blueprint(page, server, "PIDiff Edit a Person", into="pidiff_edit", kept=(1, 2, 8, 9, 10, 11, 12, 13))
    shown = page.evaluate(
        """() => {
            const graph = window.app.graph;
            const person = graph._nodes.find((node) => node.title === 'PIDiff Edit a Person');
            const ends = {model: [1, 0], pidiff_model: [1, 3], image: [2, 0]};
            for (const [name, [id, slot]] of Object.entries(ends))
                graph.getNodeById(id).connect(slot, person, name);
            person.connect(0, graph.getNodeById(11), 'model');
            person.widgets.find((widget) => widget.name === 'direction').value = 'glasses';
            return [person.widgets.map((widget) => widget.name), person.outputs.map((output) => output.name)];
        }"""
    )
    assert shown == [["direction", "amount", "mix", "strength", "preset"], ["model", "wplus", "aligned"]]
    job = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    inside = {node_id.split(":")[-1]: node for node_id, node in job.items() if ":" in node_id}
    assert set(inside) == {"3", "6", "7"}
    assert inside["6"]["inputs"]["direction"] == "glasses"
    assert inside["6"]["inputs"]["edits"] == ""
    assert "other" not in inside["6"]["inputs"]
    page.evaluate("async () => window.app.queuePrompt(0)")
    page.wait_for_function("() => window.app.graph.getNodeById(13).imgs?.length === 1", timeout=180_000)
    page.screenshot(path=PICTURES / f"blueprint_edit_{server.host.name}.png")
    assert not page.errors
