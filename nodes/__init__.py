"""The nodes. A newcomer reads on in pidiff_core/adapter/attention.py: the method in one file."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyIdentityAdapter
from .codes import ListCodes, LoadCodes, SaveCodes
from .combine import MeanCodes, WalkCodes
from .edit import StyleEdit
from .encode import EncodeIdentity
from .find_directions import FindDirections
from .grid import Grid
from .host import edit_routes, folders, progress, samples
from .image_from_text import ImageFromText
from .likeness import LikenessNode
from .load import LoadPIDiff
from .load_mini import LoadMini
from .localise import Localise
from .paste import PastePortrait
from .preview import PreviewCodes
from .tune import TuneIdentity

NODES: list[type[io.ComfyNode]] = [
    LoadPIDiff,
    LoadMini,
    EncodeIdentity,
    ApplyIdentityAdapter,
    StyleEdit,
    FindDirections,
    Localise,
    PreviewCodes,
    PastePortrait,
    LikenessNode,
    Grid,
    SaveCodes,
    LoadCodes,
    ListCodes,
    MeanCodes,
    WalkCodes,
    TuneIdentity,
    ImageFromText,
]


class PIDiffExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES


def extension() -> ComfyExtension:
    """Register the model folder, the interrupts, the routes of previews and the sample people, and offer the nodes."""
    folders.register()
    progress.register()
    edit_routes.register()
    samples.offer_samples()
    return PIDiffExtension()
