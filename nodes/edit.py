"""StyleEdit: move codes along directions, or take levels from another person."""

from __future__ import annotations

import functools
from typing import Any

from comfy_api.latest import io

from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.wplus.direction_files import SUFFIXES
from ..pidiff_core.wplus.directions import MOST_STEPS
from ..pidiff_core.wplus.edits import Edits, PlainEdit
from .host.direction_lists import (
    NO_DIRECTION,
    direction_choices,
    is_none,
    named_direction,
    offered_directions,
    offered_or_named,
)
from .host.edit_preview import remember
from .host.folders import identities, list_pidiff_files
from .host.inputs import checked_inputs
from .host.wire_types import PidiffModel, PidiffWPlus, schema, slider


class StyleEdit(io.ComfyNode):
    """Edits W+ codes level by level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="StyleEdit",
            display_name="PIDiff Style Edit (Face: Age, Smile)",
            category="PIDiff",
            description="Edits W+ codes with sliders and a live portrait: moves them along directions (smile, "
            "hair ...) and takes levels of another person.",
            is_output_node=True,  # a cached run, too, tells the panel which codes it draws; runs without a sampler
            search_aliases=["W+ edit", "edit face", "age", "smile", "expression", "mix faces", "InterFaceGAN"],
            advanced=["direction", "amount", "coarse", "medium", "fine", "mix", "edits"],
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="Codes to edit. Other nodes keep the unedited ones."),
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model that the codes were encoded with."),
                io.Combo.Input(
                    "direction",
                    options=direction_choices(),
                    default=NO_DIRECTION,
                    tooltip="One direction, in addition to the sliders. Start with none. The list has mini's "
                    "directions and those of the files in models/pidiff (.npy, .pt, .pth, .csv); other models have "
                    "their own. From another node or the API, any name can be given.",
                ),
                slider(
                    "amount",
                    "How far to move along direction, in its own steps. Start with 1; the useful range depends on the "
                    "file. Negative: the opposite. 0: no change. For a GANSpace table, 1 is the table's full strength.",
                    least=-MOST_STEPS,
                    most=MOST_STEPS,
                ),
                io.Boolean.Input(
                    "coarse",
                    default=True,
                    tooltip="Let direction and mix edit the coarse level: pose and head shape. Start with on.",
                ),
                io.Boolean.Input(
                    "medium",
                    default=True,
                    tooltip="Let direction and mix edit the medium level: facial features and hair style. Start "
                    "with on.",
                ),
                io.Boolean.Input(
                    "fine",
                    default=True,
                    tooltip="Let direction and mix edit the fine level: colours and texture. Start with on.",
                ),
                PidiffWPlus.Input(
                    "other",
                    optional=True,
                    tooltip="Codes of another person. The sliders set how much of each level is taken from them, "
                    "before the directions.",
                ),
                slider(
                    "mix",
                    "Amount of the other person in the levels that are on, if the sliders do not set it. Start with 1 "
                    "(all of it); 0 takes nothing.",
                    most=1.0,
                    optional=True,
                ),
                io.String.Input(
                    "edits",
                    default="",
                    optional=True,
                    tooltip="The sliders' values as JSON; start empty. Example: "
                    '{"directions": {"smile": 2.5}, "mix": {"fine": 0.5}}. Amounts are steps, as in amount.',
                ),
            ],
            outputs=[PidiffWPlus.Output("edited", display_name="wplus", tooltip="The edited codes.")],
        )

    @classmethod
    def validate_inputs(cls, direction: str | None = None, input_types: Any = None) -> bool:
        """Any name is accepted here: other models have directions that the list does not know. `execute` checks it.

        With `input_types`, ComfyUI accepts texts of other nodes, too.
        """
        return True

    @classmethod
    def fingerprint_inputs(
        cls, direction: str | None = None, edits: str | None = "", **_others: Any
    ) -> list[tuple[str, FileIdentity]]:
        """Edit again when a file of directions has changed; behind a link (None) it may be any of them."""
        nothing = is_none(direction) and edits is not None and not edits.strip()
        return [] if nothing else identities(list_pidiff_files(SUFFIXES))

    @classmethod
    @checked_inputs
    def execute(
        cls,
        wplus: Any,
        pidiff_model: Any,
        direction: str,
        amount: float,
        coarse: bool,
        medium: bool,
        fine: bool,
        other: Any = None,
        mix: float = 1.0,
        edits: str = "",
    ) -> io.NodeOutput:
        """See `pidiff_core.wplus.edits`. The panel draws the same edits with the same code."""
        pidiff_model.require_space_of(wplus)
        plain = PlainEdit(
            None if is_none(direction) else named_direction(direction, pidiff_model),
            amount,
            [name for name, on in (("coarse", coarse), ("medium", medium), ("fine", fine)) if on],
            mix,
        )
        offered = offered_directions(pidiff_model)
        find = functools.partial(offered_or_named, model=pidiff_model, offered=offered)
        edited = Edits.from_json(edits or "").apply(wplus, find=find, other=other, plain=plain)
        key = remember(pidiff_model, wplus, other=other, plain=plain, directions=offered)
        return io.NodeOutput(edited, ui={"pidiff_edit": [{"key": key}]})
