"""Write the graph format of every workflow in workflows/api/: what the browser opens, made from what the queue takes.

Positions, sizes, groups and the note are the tables below; slots and widgets are read off a running ComfyUI, so that a
changed node signature needs nothing but another run of `python scripts/make_workflows.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent
API_DIR = ROOT / "workflows" / "api"

# node id: x, y, width, height
PLACES = {
    "1": (40, 120, 330, 120),
    "14": (40, 290, 330, 200),
    "2": (40, 640, 330, 330),
    "3": (420, 640, 330, 250),
    "11": (800, 640, 260, 280),
    "12": (420, 940, 330, 60),
    "13": (1090, 640, 260, 280),
    "5": (420, 120, 370, 110),
    "6": (420, 280, 370, 110),
    "7": (420, 440, 370, 110),
    "4": (840, 120, 330, 280),
    "8": (1220, 120, 300, 270),
    "9": (1220, 440, 300, 60),
    "10": (1570, 120, 420, 430),
}
GROUPS = (
    ("1  Model", (20, 40, 370, 520), "#3f789e"),
    ("2  Prompt and size", (400, 40, 410, 520), "#8a8"),
    ("3  The person, as read from the photo", (20, 580, 1350, 440), "#b58b2a"),
    ("4  Draw", (820, 40, 1190, 520), "#a1309b"),
)
NOTE_PLACE = (1400, 620, 590, 360)
NOTES = {
    "pidiff_mini": """## PIDiff mini

Everything here comes with the pack: no download. Choose a photo with one face and queue.

- **Read the person** finds the face, aligns it and reads its W+ codes. Look at *Aligned crop* first: where that is not
the face you meant, nothing after it can be right.
- **Put the person into the model** has one strength, three for the levels of the W+ codes (coarse: pose and shape of
the head; medium: features and hair; fine: colours), and start and end of its action.
- Mini draws 128 px pictures of *drawn people*. It knows forest, beach, city, room, desert and space; red, yellow,
green, blue, purple, white and black clothes; photo, painting and sketch; smiling and surprised.
- Bypass *Put the person into the model* (Ctrl-B) and queue again: the same picture without the person.
""",
    "pidiff_sd15": """## PIDiff with Stable Diffusion 1.5

Any SD 1.5 checkpoint serves. *PIDiff files* lists what lies in `ComfyUI/models/pidiff/`; the node's help page says
which files are needed and where their authors publish them. The pack downloads nothing.

- **Read the person** finds the face, aligns it and reads its W+ codes. Look at *Aligned crop* first.
- Too strong a likeness burns the picture: lower *strength* before CFG. To keep the prompt's composition, begin later
(*start_percent* 0.2).
""",
}
NOTE_ID = 90


def graph_from_api(workflow: dict[str, Any], object_info: dict[str, Any], *, note: str) -> dict[str, Any]:
    """The graph format (version 0.4) of an API-format workflow."""
    links: list[list[Any]] = []
    nodes: dict[str, dict[str, Any]] = {}
    for order, (node_id, node) in enumerate(sorted(workflow.items(), key=lambda item: int(item[0]))):
        nodes[node_id] = _node(node_id, node, object_info[node["class_type"]], order)
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
    x, y, width, height = NOTE_PLACE
    note_node = {
        "id": NOTE_ID, "type": "MarkdownNote", "pos": [x, y], "size": [width, height], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "title": "Read me", "properties": {}, "widgets_values": [note],
    }  # fmt: skip
    groups = [
        {"id": number, "title": title, "bounding": list(bounds), "color": colour, "font_size": 24, "flags": {}}
        for number, (title, bounds, colour) in enumerate(GROUPS, start=1)
    ]
    return {
        "last_node_id": NOTE_ID, "last_link_id": len(links), "nodes": [*nodes.values(), note_node], "links": links,
        "groups": groups, "config": {}, "extra": {"ds": {"scale": 0.7, "offset": [100, 110]}}, "version": 0.4,
    }  # fmt: skip


def _node(node_id: str, node: dict[str, Any], info: dict[str, Any], order: int) -> dict[str, Any]:
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
    x, y, width, height = PLACES[node_id]
    return {
        "id": int(node_id), "type": node["class_type"], "pos": [x, y], "size": [width, height], "flags": {},
        "order": order, "mode": 0, "inputs": slots,
        "outputs": [
            {"name": name, "type": kind, "links": []} for name, kind in zip(info["output_name"], info["output"])
        ],
        "title": node["_meta"]["title"], "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": values,
    }  # fmt: skip


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
        graph = graph_from_api(json.loads(path.read_text()), object_info, note=NOTES[path.stem])
        target = API_DIR.parent / path.name
        target.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n")
        environment.say(f"{target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
