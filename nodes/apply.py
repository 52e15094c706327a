"""ApplyIdentityAdapter: add identities to a MODEL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..pidiff_core.adapter.presets import ARRANGEMENTS, PRESETS, UNCONDITIONAL, ApplyOptions
from ..pidiff_core.adapter.refinement import refined
from ..pidiff_core.errors import listed
from ..pidiff_core.wplus.average import mean_of_groups
from ..pidiff_core.wplus.codes import WPlus
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.wire_types import PidiffModel, PidiffWPlus, fraction, schema, slider
from .unet.applied_identity import AppliedIdentity
from .unet.apply import apply_identity, run_state_of

_USEFUL_STRENGTH = 2.0


def strength_input(tooltip: str) -> io.Float.Input:
    """The strength of an identity, here and in the Grid node."""
    return slider("strength", tooltip, least=-1.0, most=3.0)


def preset_input(tooltip: str) -> io.Combo.Input:
    """The preset, here and in the Grid node."""
    return io.Combo.Input("preset", options=list(PRESETS), default="portrait", optional=True, tooltip=tooltip)


class ApplyIdentityAdapter(io.ComfyNode):
    """Patches a clone of a MODEL with the identities of W+ codes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""

        def level(name: str, what: str) -> io.Float.Input:
            return slider(name, f"Strength of the {what}. Start with 1.", most=2.0, optional=True)

        return schema(
            node_id="ApplyIdentityAdapter",
            display_name="PIDiff Apply Identity Adapter (Face Likeness, FaceID, IPAdapter)",
            category="PIDiff",
            description="Adds a person to a MODEL, from W+ codes. Chain several of these nodes for several people.",
            search_aliases=[
                "identity",
                "face",
                "person",
                "likeness",
                "FaceID",
                "IPAdapter",
                "InstantID",
                "PuLID",
                "personalise",
            ],
            advanced=["coarse", "medium", "fine", "site_strengths", "unconditional", "photos_per_person"],
            inputs=[
                io.Model.Input("model", tooltip="Model to add the person to. The input itself is not changed."),
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with an identity adapter for this base model."),
                PidiffWPlus.Input(
                    "wplus",
                    tooltip="W+ codes. Image i uses code i; codes repeat if there are more images than codes.",
                ),
                strength_input(
                    "Strength of the identity. Start with 1; lower it if the picture looks burned. 0: exactly the "
                    "model without the node. Negative: less like this person."
                ),
                fraction(
                    "start_percent",
                    0.0,
                    "Fraction of sampling at which the identity starts. Start with 0; 0.2 lets the prompt set the "
                    "composition first.",
                ),
                fraction(
                    "end_percent",
                    1.0,
                    "Fraction of sampling at which the identity ends. Start with 1; 0.8 leaves the last details to "
                    "the prompt.",
                ),
                level("coarse", "coarse level: pose and head shape"),
                level("medium", "medium level: facial features and hair style"),
                level("fine", "fine level: colours and texture"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Mask of the area for this person: white = apply the identity. Any size. If not "
                    "connected, the identity may act anywhere in the picture.",
                ),
                preset_input(
                    "Preset, multiplied with the values above. Start with portrait: the adapter as trained. "
                    "likeness first: stronger. prompt first: weaker and later. style transfer: colours and texture "
                    "only. composition kept: the prompt sets the layout. few steps: stronger, for LCM, "
                    "Lightning, Turbo and DMD2 at CFG 1. W+ Adapter: no identity in the first 20 % of "
                    "sampling, as in its published code."
                ),
                io.String.Input(
                    "site_strengths",
                    default="",
                    optional=True,
                    tooltip="Strength of single parts of the UNet, from 0 to 10; start empty (all 1). Example: "
                    "'middle=0 output=1.2 input.4.1=0.5' sets a block, a block and one cross-attention.",
                ),
                io.Combo.Input(
                    "unconditional",
                    options=list(UNCONDITIONAL),
                    default="auto",
                    optional=True,
                    tooltip="Identity for the negative prompt's half of guidance. Start with auto: as the adapter was "
                    "trained (PIDiff: nothing, W+ Adapter: average person).",
                ),
                io.Int.Input(
                    "photos_per_person",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="Number of consecutive codes that show the same person; they are averaged. Start with 1.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(ARRANGEMENTS),
                    default="anywhere",
                    optional=True,
                    tooltip="How several people share the picture. Start with anywhere: apply to every face. left to "
                    "right: the first Apply node of the chain gets the leftmost face, the next node the next face.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model", tooltip="Model with the person. Connect it to a sampler."
                )
            ],
        )

    @classmethod
    @checked_inputs
    def execute(
        cls,
        model: Any,
        pidiff_model: Any,
        wplus: Any,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        coarse: float = 1.0,
        medium: float = 1.0,
        fine: float = 1.0,
        mask: Any = None,
        preset: str = "portrait",
        site_strengths: str = "",
        unconditional: str = "auto",
        photos_per_person: int = 1,
        place: str = "anywhere",
    ) -> io.NodeOutput:
        """See `unet.apply.apply_identity`, and `presets.combine` for how the strengths are combined."""
        pidiff_model.require_space_of(wplus)
        adapter = refined(pidiff_model.require("adapter", purpose="to apply an identity"), wplus)
        options = ApplyOptions(
            strength=strength,
            start_percent=start_percent,
            end_percent=end_percent,
            levels={"coarse": coarse, "medium": medium, "fine": fine},
            preset=preset,
            site_strengths=site_strengths or "",
            unconditional=unconditional,
            arrangement=place,
        )
        people = mean_of_groups(wplus, photos_per_person)
        patched = apply_identity(model, adapter, people, options=options, mask_bhw=mask)
        return io.NodeOutput(
            patched, ui=report(warnings=_doubts(options, people, mask, before=run_state_of(model).identities))
        )


def _doubts(options: ApplyOptions, people: WPlus, mask: Any, *, before: Sequence[AppliedIdentity]) -> list[str]:
    """What runs, but can hardly be meant.

    before: what the Apply nodes before this one have added.
    """
    found = []
    if options.start_percent >= options.end_percent:
        found.append(
            f"No identity: start_percent ({options.start_percent:g}) is not below end_percent "
            f"({options.end_percent:g}). Start with 0 and 1."
        )
    if options.strength > _USEFUL_STRENGTH:
        found.append(
            f"strength {options.strength:g} is beyond the useful range, up to {_USEFUL_STRENGTH:g}: the picture may "
            "look burned. Start with 1."
        )
    if not any(people.present):
        found.append("No identity: no face was found in the photos of these codes.")
    if mask is not None:
        masks = mask if mask.ndim == 3 else mask[None]
        empty = [row for row, one in enumerate(masks) if not one.any()]
        if len(empty) == len(masks):
            found.append("No identity: the mask is empty. White is where the identity may act.")
        elif empty:
            found.append(
                f"No identity in some pictures: mask {listed(empty)} of {len(masks)} is empty, counted from 0."
            )
    everywhere = [
        one
        for one in before
        if not one.has_mask
        and not one.in_row
        and max(one.start_percent, options.start_percent) < min(one.end_percent, options.end_percent)
    ]
    if everywhere and mask is None and options.arrangement == "anywhere" and options.strength > 0:
        found.append(
            "Another Apply node acts on every face, and so does this one: both people are mixed in each face. Set "
            "place to 'left to right' on both nodes, or connect a mask to each."
        )
    return found
