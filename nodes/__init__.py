"""The nodes. A newcomer reads on in pidiff_core/adapter/attention.py: the method in one file."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import folders
from .apply import ApplyIdentityAdapter
from .codes import ListCodes, LoadCodes, SaveCodes
from .encode import EncodeIdentity
from .load import LoadPIDiff
from .load_mini import LoadMini
from .localise import Localise
from .people import MeanCodes, WalkCodes
from .preview import PreviewCodes
from .style_edit import StyleEdit

NODES: list[type[io.ComfyNode]] = [
    LoadPIDiff,
    LoadMini,
    EncodeIdentity,
    ApplyIdentityAdapter,
    StyleEdit,
    Localise,
    PreviewCodes,
    SaveCodes,
    LoadCodes,
    ListCodes,
    MeanCodes,
    WalkCodes,
]


class PIDiffExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES


def extension() -> ComfyExtension:
    """Register the model folder, and offer the nodes."""
    folders.register()
    return PIDiffExtension()
