"""Write the graph format (for the browser) of every workflow in workflows/api/ (the queue's format), and subgraphs/.

Positions, sizes and groups are tables in workflow_layouts.py, notes are in workflow_notes/; slots and widgets come from
a running ComfyUI.
After a new input of a node, run `python scripts/make_workflows.py` again: the queue's format gets its default, too.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import environment
from workflow_layouts import BLUEPRINTS, LAYOUTS, MODEL_FILES, Blueprint, Layout

ROOT = Path(__file__).resolve().parent.parent
API_DIR = ROOT / "workflows" / "api"
NOTES = ROOT / "scripts" / "workflow_notes"
SUBGRAPHS = ROOT / "subgraphs"  # where ComfyUI looks for a pack's blueprints

NOTE_ID = 90
MUTED = 2
_INPUT_NODE, _OUTPUT_NODE = -10, -20  # ids of a subgraph's two ends


def with_defaults(workflow: Mapping[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The same API-format workflow with every widget written out, as the front end queues it."""
    completed = copy.deepcopy(dict(workflow))
    for node in completed.values():
        info = object_info[node["class_type"]]
        for name in [*info["input"].get("required", {}), *info["input"].get("optional", {})]:
            kind, options = _declaration(info, name)
            if _is_widget(kind) and "default" in options:
                node["inputs"].setdefault(name, options["default"])
    return completed


def graph_from_api(
    workflow: dict[str, Any], object_info: dict[str, Any], *, layout: Layout, note: str
) -> dict[str, Any]:
    """The graph format (version 0.4) of an API-format workflow; note is Markdown."""
    workflow = {**workflow, **with_defaults(layout.muted, object_info)}
    links: list[list[Any]] = []
    nodes: dict[str, dict[str, Any]] = {}
    for order, (node_id, node) in enumerate(sorted(workflow.items(), key=lambda item: int(item[0]))):
        nodes[node_id] = _node(node_id, node, object_info[node["class_type"]], order, layout)
    for node_id, node in nodes.items():
        given = workflow[node_id]["inputs"]
        for slot, entry in enumerate(node["inputs"]):
            if not isinstance(given.get(entry["name"]), list):
                continue
            source_id, source_slot = given[entry["name"]]
            output = nodes[source_id]["outputs"][source_slot]
            link_id = len(links) + 1
            links.append([link_id, int(source_id), source_slot, int(node_id), slot, output["type"]])
            entry["link"] = link_id
            output["links"].append(link_id)
    for node_id, node in nodes.items():
        # Newer hosts hand the pictures of output nodes on; a graph for all hosts has no slot for that.
        if object_info[workflow[node_id]["class_type"]]["output_node"] and not any(
            output["links"] for output in node["outputs"]
        ):
            node["outputs"] = []
    x, y, width, height = layout.note_place
    note_node = {
        "id": NOTE_ID, "type": "MarkdownNote", "pos": [x, y], "size": [width, height], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "title": "Read me", "properties": {}, "widgets_values": [note],
    }  # fmt: skip
    groups = [
        {"id": number, "title": title, "bounding": list(bounds), "color": colour, "font_size": 24, "flags": {}}
        for number, (title, bounds, colour) in enumerate(layout.groups, start=1)
    ]
    left = min(bounds[0] for _, bounds, _ in layout.groups)
    return {
        "last_node_id": NOTE_ID, "last_link_id": len(links), "nodes": [*nodes.values(), note_node], "links": links,
        "groups": groups, "config": {}, "extra": {"ds": {"scale": 0.7, "offset": [120 - left, 110]}}, "version": 0.4,
    }  # fmt: skip


def blueprint_graph(
    name: str, blueprint: Blueprint, workflow: dict[str, Any], object_info: dict[str, Any]
) -> dict[str, Any]:
    """A graph of one subgraph node, as the front end saves blueprints.

    Args:
        name: of the blueprint.
        blueprint: which nodes, and what is shown of them.
        workflow: in API format, with every widget written out.
        object_info: of a running ComfyUI.
    """
    layout = LAYOUTS[blueprint.workflow]
    workflow = {
        node_id: {**node, "inputs": {**node["inputs"], **blueprint.settings.get(node_id, {})}}
        for node_id, node in workflow.items()
    }
    infos = {node_id: object_info[workflow[node_id]["class_type"]] for node_id in workflow}
    nodes = {
        node_id: _node(node_id, workflow[node_id], infos[node_id], order, layout)
        for order, node_id in enumerate(blueprint.inside)
    }
    links: list[dict[str, Any]] = []

    def link(origin: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        link_id = len(links) + 1
        ends = {"origin_id": origin[0], "origin_slot": origin[1], "target_id": target[0], "target_slot": target[1]}
        links.append({"id": link_id, **ends, "type": kind})
        return link_id

    left, top = (min(layout.places[node_id][axis] for node_id in nodes) for axis in (0, 1))
    right = max(layout.places[node_id][0] + layout.places[node_id][2] for node_id in nodes)
    inputs: dict[tuple[str, int], dict[str, Any]] = {}
    for node_id, node in nodes.items():
        for slot, entry in enumerate(node["inputs"]):
            source = workflow[node_id]["inputs"].get(entry["name"])
            if not isinstance(source, list):
                continue
            if source[0] in nodes:
                entry["link"] = link((int(source[0]), source[1]), (int(node_id), slot), entry["type"])
                nodes[source[0]]["outputs"][source[1]]["links"].append(entry["link"])
                continue
            given = inputs.setdefault(tuple(source), _port(name, entry, len(inputs)))
            position = list(inputs).index(tuple(source))
            entry["link"] = link((_INPUT_NODE, position), (int(node_id), slot), entry["type"])
            given["linkIds"].append(entry["link"])
    outputs = []
    for position, (node_id, slot) in enumerate(blueprint.outputs):
        entry = nodes[node_id]["outputs"][slot]
        link_id = link((int(node_id), slot), (_OUTPUT_NODE, position), entry["type"])
        entry["links"].append(link_id)
        outputs.append({**_port(f"{name} output", entry, position), "linkIds": [link_id]})
    subgraph_id = _uuid(name)
    found_by = {
        "BlueprintDescription": blueprint.description,
        "BlueprintSearchAliases": list(blueprint.search_aliases),
    }
    subgraph = {
        "id": subgraph_id, "version": 1, "revision": 0, "name": name, "config": {},
        "state": {
            "lastGroupId": 0, "lastNodeId": max(map(int, nodes)), "lastLinkId": len(links), "lastRerouteId": 0,
        },
        "inputNode": {"id": _INPUT_NODE, "bounding": [left - 220, top, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": _OUTPUT_NODE, "bounding": [right + 100, top, 120, 40 + 20 * len(outputs)]},
        "inputs": list(inputs.values()), "outputs": outputs, "widgets": [], "nodes": list(nodes.values()),
        "groups": [], "links": links, "category": "PIDiff", "extra": found_by,
    }  # fmt: skip
    node = {
        "id": 1, "type": subgraph_id, "pos": [left, top], "size": [330, 240], "flags": {}, "order": 0, "mode": 0,
        "inputs": [{"name": port["name"], "type": port["type"], "link": None} for port in inputs.values()],
        "outputs": [{"name": port["name"], "type": port["type"], "links": []} for port in outputs],
        "title": name, "properties": {"proxyWidgets": [list(widget) for widget in blueprint.widgets]},
        "widgets_values": [],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4,
        "definitions": {"subgraphs": [subgraph]}, "extra": found_by,
    }  # fmt: skip


def _port(name: str, entry: dict[str, Any], position: int) -> dict[str, Any]:
    """An input or output of a subgraph."""
    port = {"id": _uuid(f"{name} {position} {entry['name']}"), "name": entry["name"], "type": entry["type"]}
    return {**port, "linkIds": []}


def _uuid(name: str) -> str:
    """The same for the same name, so that a file changes only with its content."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pidiff:{name}"))


def note_of(name: str) -> str:
    """The note of a shipped workflow, as Markdown."""
    return (NOTES / f"{name}.md").read_text(encoding="utf-8")


def _node(node_id: str, node: dict[str, Any], info: dict[str, Any], order: int, layout: Layout) -> dict[str, Any]:
    """One node without its links: connection slots, then the values of its widgets in the order of its schema."""
    slots: list[dict[str, Any]] = []
    values: list[Any] = []
    for name in [*info["input_order"].get("required", []), *info["input_order"].get("optional", [])]:
        kind, options = _declaration(info, name)
        if not _is_widget(kind):
            slots.append({"name": name, "type": kind, "link": None, **_optional_shape(info, name)})
            continue
        values.append(node["inputs"].get(name, options.get("default")))
        if name in ("seed", "noise_seed") or options.get("control_after_generate"):
            values.append("fixed")
        if options.get("image_upload"):
            values.append("image")
    x, y, width, height = layout.places[node_id]
    return {
        "id": int(node_id), "type": node["class_type"], "pos": [x, y], "size": [width, height], "flags": {},
        "order": order, "mode": MUTED if node_id in layout.muted else 0, "inputs": slots,
        "outputs": [
            {"name": name, "type": kind, "links": []} for name, kind in zip(info["output_name"], info["output"])
        ],
        "title": node["_meta"]["title"],
        "properties": {"Node name for S&R": node["class_type"], **_missing_models(values)},
        "widgets_values": values,
    }  # fmt: skip


def _missing_models(values: list[Any]) -> dict[str, Any]:
    """The property with which the front end offers to download a missing model file."""
    files = [
        {"name": name, "url": MODEL_FILES[name][0], "directory": MODEL_FILES[name][1]}
        for name in values
        if isinstance(name, str) and name in MODEL_FILES
    ]
    return {"models": files} if files else {}


def _declaration(info: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}[name]
    return declared[0], declared[1] if len(declared) > 1 else {}


def _is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def _optional_shape(info: dict[str, Any], name: str) -> dict[str, int]:
    hollow_circle = 7
    return {"shape": hollow_circle} if name in info["input"].get("optional", {}) else {}


def main() -> int:
    environment.ensure(__file__)
    import comfy_host

    with comfy_host.ComfyServer(comfy_host.prepare()) as server:
        object_info = server.object_info()
    for path in sorted(API_DIR.glob("*.json")):
        workflow = with_defaults(json.loads(path.read_text()), object_info)
        path.write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n")
        graph = graph_from_api(workflow, object_info, layout=LAYOUTS[path.stem], note=note_of(path.stem))
        target = API_DIR.parent / path.name
        target.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n")
        environment.say(f"{target}")
    SUBGRAPHS.mkdir(exist_ok=True)
    for name, blueprint in BLUEPRINTS.items():
        workflow = json.loads((API_DIR / f"{blueprint.workflow}.json").read_text())
        target = SUBGRAPHS / f"{name}.json"
        graph = blueprint_graph(name, blueprint, workflow, object_info)
        target.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n")
        environment.say(f"{target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
