"""Graphs that were saved with version 0.1 still fit today's nodes: names, types, values and the order of widgets.

tests/data/version_0_1/nodes.json was recorded from that version's nodes in ComfyUI 0.3.75. The graph format stores the
values of a node's widgets by position, and its outputs by number.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

RECORD = json.loads((Path(__file__).parent.parent / "data" / "version_0_1" / "nodes.json").read_text())
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
FILES = {("LoadPIDiff", "adapter"), ("LoadPIDiff", "encoder"), ("PIDiffLoadCodes", "file")}  # options: the user's files

LISTS = {("StyleEdit", "direction")}  # a text then, a list now that takes any text: its node checks no list


@pytest.fixture(scope="module")
def today(comfy, pack) -> dict[str, Any]:
    """What ComfyUI says about each node today: its inputs in order, as in the record, and its outputs."""
    extension = asyncio.run(pack.module.comfy_entrypoint())
    found = {}
    for node in asyncio.run(extension.get_node_list()):
        info = node.GET_NODE_INFO_V1()
        inputs = {}
        for part in ("required", "optional"):
            for name, (kind, *options) in info["input"].get(part, {}).items():
                settings = dict(options[0]) if options else {}
                if not isinstance(kind, str):
                    kind, settings["options"] = "COMBO", kind
                inputs[name] = {"type": kind, "required": part == "required", **settings}
        found[info["name"]] = {"inputs": inputs, "outputs": list(info["output"])}
    return found


def widgets(inputs: dict[str, Any]) -> list[str]:
    return [name for name, entry in inputs.items() if entry["type"] in WIDGETS]


@pytest.mark.parametrize("node_id", RECORD)
def test_every_input_is_there_and_takes_the_same_values(today, node_id):
    inputs = today[node_id]["inputs"]
    for name, then in RECORD[node_id]["inputs"].items():
        expected = "COMBO" if (node_id, name) in LISTS else then["type"]
        assert set(expected.split(",")) <= set(inputs[name]["type"].split(",")), name
        if (node_id, name) not in FILES:
            assert set(then.get("options", [])) <= set(inputs[name].get("options", [])), name
        if "min" in then:
            assert inputs[name]["min"] <= then["min"], name
            assert inputs[name]["max"] >= then["max"], name


@pytest.mark.parametrize("node_id", RECORD)
def test_widgets_keep_their_places_and_outputs_their_numbers(today, node_id):
    then, now = widgets(RECORD[node_id]["inputs"]), widgets(today[node_id]["inputs"])
    assert now[: len(then)] == then
    assert today[node_id]["outputs"][: len(RECORD[node_id]["outputs"])] == RECORD[node_id]["outputs"]


@pytest.mark.parametrize("node_id", RECORD)
def test_no_input_that_version_0_1_did_not_have_is_required(today, node_id):
    new = set(today[node_id]["inputs"]) - set(RECORD[node_id]["inputs"])
    assert not {name for name in new if today[node_id]["inputs"][name]["required"]}
