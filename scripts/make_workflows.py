"""Write the graph format (for the browser) of every workflow in workflows/api/ (the queue's format).

Positions, sizes and groups are tables in workflow_layouts.py, notes are in workflow_notes/; slots and widgets come from
a running ComfyUI.
After a new input of a node, run `python scripts/make_workflows.py` again: the queue's format gets its default, too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import environment
from workflow_layouts import LAYOUTS, MODEL_FILES, Layout

ROOT = Path(__file__).resolve().parent.parent
API_DIR = ROOT / "workflows" / "api"
NOTES = ROOT / "scripts" / "workflow_notes"

NOTE_ID = 90
MUTED = 2


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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
