"""The nodes' ids, inputs and outputs are those on record: a renamed or removed input is seen before users see it.

After a change that is meant: PIDIFF_RECORD=1 python -m pytest tests/nodes/test_node_record.py, and read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

RECORD = Path(__file__).parent.parent / "data" / "nodes.json"


def test_ids_inputs_and_outputs_are_those_on_record(comfy, pack):
    today = {}
    for node in pack.load("nodes").NODES:
        schema = node.define_schema()
        today[schema.node_id] = {
            "inputs": {
                one.id: f"{one.io_type}{' (optional)' if getattr(one, 'optional', False) else ''}"
                for one in schema.inputs
            },
            "outputs": [f"{one.display_name or one.id}: {one.io_type}" for one in schema.outputs],
        }
    if os.environ.get("PIDIFF_RECORD"):
        RECORD.write_text(json.dumps(today, indent=1) + "\n")
    on_record = json.loads(RECORD.read_text())
    assert today == on_record
    assert [list(entry["inputs"]) for entry in today.values()] == [
        list(on_record[node_id]["inputs"]) for node_id in today
    ], "widgets are saved by their order"
