"""PIDiffMeanCodes and PIDiffWalkCodes: one person from several photos, and the way from one person to another."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.editing.averaging import find_outliers, interpolate, join_codes, mean_code
from ..pidiff_core.errors import PIDiffError
from .wires import PidiffWPlus, schema


class MeanCodes(io.ComfyNode):
    """Several photos of one person give one steadier reading."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffMeanCodes",
            display_name="PIDiff Mean Codes",
            category="PIDiff",
            description="Averages the codes of several photos of one person, and names a photo unlike the others.",
            search_aliases=["average faces", "several photos"],
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="Codes of one person, read from a batch of photos."),
                PidiffWPlus.Input("more", optional=True, tooltip="Further codes of the same person."),
                io.String.Input(
                    "weights",
                    default="",
                    optional=True,
                    tooltip="One weight a photo, blanks or commas between; 0 leaves a photo out. Empty: all alike.",
                ),
                io.Boolean.Input(
                    "drop_outliers",
                    default=False,
                    optional=True,
                    tooltip="Leave out photos that are unlike the others (three photos at least).",
                ),
            ],
            outputs=[
                PidiffWPlus.Output("mean", display_name="wplus", tooltip="One code: the mean."),
                io.String.Output("report", display_name="report", tooltip="How far each photo is from the others."),
            ],
        )

    @classmethod
    def execute(cls, wplus: Any, more: Any = None, weights: str = "", drop_outliers: bool = False) -> io.NodeOutput:
        """See `pidiff_core.editing.averaging`."""
        joined = join_codes([wplus] if more is None else [wplus, more])
        shares = _numbers(weights) or [1.0] * len(joined)
        outliers = find_outliers(joined)
        if drop_outliers and len(shares) == len(joined):
            shares = [0.0 if index in outliers.indices else share for index, share in enumerate(shares)]
        return io.NodeOutput(mean_code(joined, weights=shares), outliers.report())


class WalkCodes(io.ComfyNode):
    """A batch of people between two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffWalkCodes",
            display_name="PIDiff Walk Codes",
            category="PIDiff",
            description="Walks from one person to another in equal steps; the batch begins and ends with the two.",
            search_aliases=["interpolate faces", "morph"],
            inputs=[
                PidiffWPlus.Input("first", tooltip="The person that the walk begins with."),
                PidiffWPlus.Input("second", tooltip="The person that the walk ends with."),
                io.Int.Input("steps", default=5, min=2, max=64, tooltip="How many people, the two included."),
            ],
            outputs=[PidiffWPlus.Output("wplus", display_name="wplus", tooltip="The people on the way, as a batch.")],
        )

    @classmethod
    def execute(cls, first: Any, second: Any, steps: int) -> io.NodeOutput:
        """See `pidiff_core.editing.averaging.interpolate`."""
        return io.NodeOutput(interpolate(first, second, steps=steps))


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise PIDiffError(
            f"The weights '{text}' are not numbers. Write one for each photo, such as '1 1 0.5'."
        ) from error
