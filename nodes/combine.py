"""PIDiffMeanCodes and PIDiffWalkCodes: average several photos of one person, interpolate between two people."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.wplus.average import find_outliers, interpolate, join_codes, mean_code
from .host.inputs import checked_inputs, numbers_in
from .host.node_report import report
from .host.wire_types import PidiffWPlus, schema

_MOST_STEPS = 64


class MeanCodes(io.ComfyNode):
    """Averages the codes of several photos of one person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffMeanCodes",
            display_name="PIDiff Average Codes (Photos of One Person)",
            category="PIDiff",
            description="Averages the codes of several photos of one person and reports photos that differ from the "
            "rest.",
            has_intermediate_output=True,
            search_aliases=["average faces", "mean codes", "several photos", "combine faces", "merge faces"],
            inputs=[
                PidiffWPlus.Input("wplus", tooltip="Codes of one person, encoded from a batch of photos."),
                PidiffWPlus.Input("more", optional=True, tooltip="More codes of the same person."),
                io.String.Input(
                    "weights",
                    default="",
                    optional=True,
                    tooltip="One weight per photo, separated by spaces or commas. Start empty: all equal. 0 skips a "
                    "photo.",
                ),
                io.Boolean.Input(
                    "drop_outliers",
                    default=False,
                    optional=True,
                    tooltip="Skip photos that differ from the rest; needs at least three. Start with off and read the "
                    "report.",
                ),
            ],
            outputs=[
                PidiffWPlus.Output("mean", display_name="wplus", tooltip="One code: the average."),
                io.String.Output(
                    "report", display_name="report", tooltip="Distance of each photo from the others, as text."
                ),
            ],
        )

    @classmethod
    @checked_inputs
    def execute(cls, wplus: Any, more: Any = None, weights: str = "", drop_outliers: bool = False) -> io.NodeOutput:
        """See `pidiff_core.wplus.average`."""
        joined = join_codes([wplus] if more is None else [wplus, more])
        shares = numbers_in(weights, name="weights") or [1.0] * len(joined)
        outliers = find_outliers(joined)
        if drop_outliers and len(shares) == len(joined):
            shares = [0.0 if index in outliers.indices else share for index, share in enumerate(shares)]
        text = outliers.report()
        return io.NodeOutput(mean_code(joined, weights=shares), text, ui=report(text=text))


class WalkCodes(io.ComfyNode):
    """Interpolates between two people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffWalkCodes",
            display_name="PIDiff Interpolate Codes (Morph Faces)",
            category="PIDiff",
            description="Interpolates from one person to another in equal steps. The result is a batch of codes.",
            search_aliases=["interpolate faces", "morph", "walk codes", "blend faces"],
            inputs=[
                PidiffWPlus.Input("first", tooltip="Codes of the first person."),
                PidiffWPlus.Input("second", tooltip="Codes of the last person."),
                io.Int.Input(
                    "steps",
                    default=5,
                    min=2,
                    max=_MOST_STEPS,
                    tooltip="Number of codes, first and last included. Start with 5.",
                ),
            ],
            outputs=[
                PidiffWPlus.Output(
                    "wplus", display_name="wplus", tooltip="Batch of codes from the first person to the last."
                )
            ],
        )

    @classmethod
    @checked_inputs
    def execute(cls, first: Any, second: Any, steps: int) -> io.NodeOutput:
        """See `pidiff_core.wplus.average.interpolate`."""
        return io.NodeOutput(interpolate(first, second, steps=steps))
