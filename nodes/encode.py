"""EncodeIdentityW+: photos -> W+ codes, with the crop and the mask that they were read from."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..pidiff_core.face.background import COLOURS
from ..pidiff_core.face.choose import CHOICES, YUNET_FILE, choose_detectors
from ..pidiff_core.face.landmarks import are_landmarks
from ..pidiff_core.reading import read_identity
from .folders import find_pidiff_file, pidiff_folders
from .wires import PidiffModel, PidiffWPlus, schema


class EncodeIdentity(io.ComfyNode):
    """One face of each photo, aligned as FFHQ does, its background removed, read into W+ codes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="EncodeIdentityW+",
            display_name="Encode Identity W+",
            category="PIDiff",
            description="Finds a face in each photo, aligns it, removes its background and reads W+ codes from it.",
            search_aliases=["face encoder", "e4e", "StyleGAN inversion", "identity"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="The PIDiff model whose encoder reads the face."),
                io.Image.Input("image", tooltip="One photo of a person, or a batch of them: each gives one code."),
                io.Combo.Input(
                    "detector",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="How the face is found. auto: MTCNN where it is installed, "
                    f"then YuNet where models/pidiff/{YUNET_FILE} is. model: the model's own alone "
                    "(mini's finds drawn faces). whole image: the photo is an aligned portrait.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=-64,
                    max=63,
                    tooltip="Which face, where there are several: 0 is the largest, 1 the next; -1 is the smallest.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=["error", "whole image"],
                    default="error",
                    tooltip="When no face is found: stop with an error, or take the photo as an aligned portrait.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask of the person (1 = keep), in the photo's frame. "
                    "Without it, an egg around the head is kept.",
                ),
                io.String.Input(
                    "landmarks",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="The face's points in pixels, in place of a detector: 'x,y x,y x,y x,y x,y' for left eye, "
                    "right eye, nose, left and right corner of the mouth; or a box 'left,top right,bottom'. "
                    "One line for all photos, or one line for each.",
                ),
                io.Combo.Input(
                    "background",
                    options=[*COLOURS, "keep"],
                    default="white",
                    optional=True,
                    tooltip="What replaces the background before the face is read. The encoders expect white.",
                ),
            ],
            outputs=[
                PidiffWPlus.Output("wplus", display_name="wplus", tooltip="The people's W+ codes."),
                io.Image.Output("aligned", display_name="aligned", tooltip="The crops as the encoder saw them."),
                io.Mask.Output("face_mask", display_name="face_mask", tooltip="The faces, in the photos' frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pidiff_model: Any,
        image: Any,
        detector: str,
        face_index: int,
        on_no_face: str,
        mask: Any = None,
        landmarks: str = "",
        background: str = "white",
    ) -> io.NodeOutput:
        """See `pidiff_core.reading.read_identity`."""
        landmarks = landmarks or ""
        detectors = []
        if not are_landmarks(landmarks):  # the user's own points need no detector, so none has to be installed
            detectors = choose_detectors(
                detector,
                own=pidiff_model.detector,
                own_first=pidiff_model.detector_hint == "own",
                yunet_path=find_pidiff_file(YUNET_FILE),
                searched=pidiff_folders(),
            )
        progress = comfy.utils.ProgressBar(len(image))

        def before_each(index: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(index, len(image))

        reading = read_identity(
            pidiff_model,
            image,
            detectors=detectors,
            landmarks=landmarks,
            mask_bhw=mask,
            face_index=face_index,
            on_no_face="whole image" if on_no_face == "whole image" else "error",
            background=background,
            before_each=before_each,
        )
        return io.NodeOutput(reading.wplus, reading.crops_bhwc, reading.masks_bhw)
