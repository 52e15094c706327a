"""PIDiffPastePortrait: an edited person back into the photo."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.face.paste import MOST_FEATHER, PASTE_AREAS, PASTE_MODES, PasteOptions
from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.pipeline import paste_portraits
from .host.face_files import face_file_identities, face_parser
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.progress import progress_bar
from .host.wire_types import PidiffModel, PidiffWPlus, schema


class PastePortrait(io.ComfyNode):
    """Changes the faces of photos as the portraits of two codes differ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffPastePortrait",
            display_name="PIDiff Paste Portrait (Edited Face Into Photo)",
            category="PIDiff",
            description="Puts an edited person back into the photo. The result is a reference picture for any image "
            "model, or the start of image to image. Needs no diffusion model.",
            search_aliases=[
                "paste face",
                "edit photo",
                "face edit",
                "age",
                "smile",
                "expression",
                "face swap",
                "reference image",
                "reactor",
                "live portrait",
            ],
            advanced=["feather", "match_colour", "area"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with a generator, the one that encoded."),
                io.Image.Input(
                    "image",
                    tooltip="Photo, or batch of photos: the one that was connected to Encode Face, unchanged.",
                ),
                PidiffWPlus.Input(
                    "wplus", tooltip="Codes of Encode Face before the edit. They record where each face is."
                ),
                PidiffWPlus.Input(
                    "edited",
                    tooltip="Codes after the edit: one for each of wplus. If wplus has one code, any number: one "
                    "picture for each.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(PASTE_MODES),
                    default=PASTE_MODES[0],
                    tooltip="How the face is changed. Start with keep details: what the edit changed is added to the "
                    "photo, which keeps its details. whole head: the portrait replaces the head, for edits of the "
                    "pose.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.08,
                    min=0.0,
                    max=MOST_FEATHER,
                    step=0.01,
                    tooltip="Width of the soft edge, in sides of the aligned crop. Start with 0.08; more if the edge "
                    "is visible.",
                ),
                io.Boolean.Input(
                    "match_colour",
                    default=True,
                    optional=True,
                    tooltip="Adjust the portrait's colours and contrast to those of the photo. Start with on.",
                ),
                io.Combo.Input(
                    "area",
                    options=list(PASTE_AREAS),
                    default=PASTE_AREAS[0],
                    optional=True,
                    tooltip="Area that may change if no mask is connected. Start with head: an oval around face and "
                    "hair. whole crop: the square that was encoded, for long hair and hats.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Mask of the area that may change, at the photo's size: one for all, one for each photo "
                    "or one for each face. face_mask of Encode Face fits.",
                ),
            ],
            outputs=[
                io.Image.Output("pasted", display_name="image", tooltip="Photos with the edited people."),
                io.Mask.Output(
                    "changed",
                    display_name="mask",
                    tooltip="Area that may have changed. Every pixel outside of it is the photo's own.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> list[tuple[str, FileIdentity]]:
        """Paste again when the file of a face parser has come, gone or changed."""
        return face_file_identities()

    @classmethod
    @checked_inputs
    def execute(
        cls,
        pidiff_model: Any,
        image: Any,
        wplus: Any,
        edited: Any,
        mode: str,
        feather: float,
        match_colour: bool = True,
        area: str = PASTE_AREAS[0],
        mask: Any = None,
    ) -> io.NodeOutput:
        """See `pidiff_core.pipeline.paste_portraits`."""
        options = PasteOptions(mode=mode, area=area, feather=feather, match_colour=match_colour)  # type: ignore[arg-type]
        pasted = paste_portraits(
            pidiff_model,
            image,
            wplus,
            edited,
            options,
            mask_bhw=mask,
            parser=face_parser("auto", model=pidiff_model),
            on_progress=progress_bar(),
        )
        nothing = [] if pasted.masks_bhw.any() else ["Nothing is changed: the mask is empty. White is what may change."]
        shown = report(images_bhwc=pasted.images_bhwc, warnings=nothing)
        return io.NodeOutput(pasted.images_bhwc, pasted.masks_bhw, ui=shown)
