"""StyleEdit: move codes along a direction, or take levels from somebody else."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.editing.directions import apply_direction, mix_levels
from ..pidiff_core.editing.files import SUFFIXES
from ..pidiff_core.editing.style import find_direction
from .folders import find_pidiff_file, list_pidiff_files, pidiff_folders
from .wires import PidiffModel, PidiffWPlus, schema


class StyleEdit(io.ComfyNode):
    """Changes a person, level by level, before they are put into the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="StyleEdit",
            display_name="Style Edit",
            category="PIDiff",
            description="Changes W+ codes: along a direction (age, smile ...), or by taking levels of somebody else's.",
            search_aliases=["W+ edit", "age", "smile", "mix faces"],
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="The codes to change; they stay as they are for other nodes."),
                PidiffModel.Input("pidiff_model", tooltip="The PIDiff model that the codes belong to."),
                io.String.Input(
                    "direction",
                    default="",
                    tooltip="The name of one of the model's directions, or of a direction file in models/pidiff "
                    "(.npy, .pt, .pth, .csv; 'file.pth:3' is its fourth, 'table.csv:name' an edit of a table). "
                    "Empty: no direction.",
                ),
                io.Float.Input(
                    "amount",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.05,
                    tooltip="How far along the direction; negative is the opposite, 0 changes nothing. An edit of a "
                    "GANSpace table: 1 brings the person all the way to where the table says.",
                ),
                io.Boolean.Input("coarse", default=True, tooltip="Change the coarse styles: pose, shape of the head."),
                io.Boolean.Input("medium", default=True, tooltip="Change the medium styles: features, hair style."),
                io.Boolean.Input("fine", default=True, tooltip="Change the fine styles: colours, texture."),
                PidiffWPlus.Input(
                    "other",
                    optional=True,
                    tooltip="Somebody else, whose levels switched on above are taken before the direction is applied.",
                ),
                io.Float.Input(
                    "mix",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How much of the other person is taken: 0 nothing, 1 those levels whole.",
                ),
            ],
            outputs=[PidiffWPlus.Output("edited", display_name="wplus", tooltip="The changed codes.")],
        )

    @classmethod
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
    ) -> io.NodeOutput:
        """First the other person's levels, then the direction."""
        pidiff_model.require_space_of(wplus)
        levels = [name for name, on in (("coarse", coarse), ("medium", medium), ("fine", fine)) if on]
        if other is not None:
            wplus = mix_levels(wplus, other, levels=levels, amount=mix)
        if direction.strip():
            found = find_direction(
                direction.strip(),
                own=pidiff_model.directions,
                space=pidiff_model.space,
                find_file=find_pidiff_file,
                listed=list_pidiff_files(SUFFIXES),
                searched=pidiff_folders(),
            )
            wplus = apply_direction(wplus, found, amount=amount, levels=levels)
        return io.NodeOutput(wplus)
