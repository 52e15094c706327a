"""PIDiff for ComfyUI: a person from one photo in text-to-image pictures.

ComfyUI calls `comfy_entrypoint`. Nothing else happens when this file is imported, so that tests may import it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """The pack's nodes, for ComfyUI."""
    from .nodes import extension

    return extension()
