"""Write locales/en/nodeDefs.json, the text for translators, from ComfyUI's description of the nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "locales" / "en" / "nodeDefs.json"


def node_texts(info: dict[str, Any]) -> dict[str, Any]:
    """The texts of one entry of /object_info."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    tooltips = info.get("output_tooltips") or [""] * len(info["output"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, (_, options) in inputs.items()},
        "outputs": {
            str(slot): {"name": name, "tooltip": tooltip}
            for slot, (name, tooltip) in enumerate(zip(info["output_name"], tooltips))
        },
    }


def main() -> int:
    environment.ensure(__file__)
    import comfy_host

    with comfy_host.ComfyServer(comfy_host.prepare()) as server:
        ours = {
            node_id: node_texts(info)
            for node_id, info in sorted(server.object_info().items())
            if info["python_module"] == f"custom_nodes.{comfy_host.PACK_NAME}"
        }
    TARGET.write_text(json.dumps(ours, indent=2, ensure_ascii=False) + "\n")
    environment.say(f"{TARGET}: {len(ours)} nodes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
