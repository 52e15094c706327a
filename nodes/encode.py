"""EncodeIdentityW+: photos -> W+ codes, with the crop and the mask that they were read from."""

from __future__ import annotations

from typing import Any, cast

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.face.background import COLOURS
from ..pidiff_core.face.choose import CHOICES, YUNET_FILE, choose_detectors
from ..pidiff_core.face.crop import ON_NO_FACE, OnNoFace
from ..pidiff_core.face.given import needs_detector, read_given
from ..pidiff_core.face.order import CHOICES as FACE_CHOICES
from ..pidiff_core.reading import read_identity
from .face_files import BACKGROUND_MASKS, face_parser, insightface_root
from .folders import find_pidiff_file, pidiff_folders
from .wires import PidiffModel, PidiffWPlus, schema

# What other nodes say about faces: ComfyUI's own Detect Face Landmarks (MediaPipe), and DWPose or OpenPose estimators.
FACE_WIRES = [io.Custom("FACE_LANDMARKS"), io.Custom("POSE_KEYPOINT")]


class EncodeIdentity(io.ComfyNode):
    """One face of each photo, or all of them, aligned as FFHQ does, without background, read into W+ codes."""

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
                    tooltip="How the face is found. auto: what is at hand of MTCNN, InsightFace, MediaPipe, and YuNet "
                    f"(models/pidiff/{YUNET_FILE}), in that order. model: the model's own alone "
                    "(mini's finds drawn faces). whole image: the photo is an aligned portrait.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=-64,
                    max=63,
                    tooltip="Which face, where there are several: 0 is the first, 1 the next, -1 the last, in the "
                    "order that `choose` says: from the largest, unless you change it.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(ON_NO_FACE),
                    default="error",
                    tooltip="When no face is found: stop with an error; pass through: go on, and draw nobody for "
                    "this photo; whole image: take the photo as an aligned portrait.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask of the person (1 = keep), in the photo's frame. "
                    "Without it, see background_mask.",
                ),
                io.String.Input(
                    "landmarks",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="The face's points in pixels, in place of a detector: 'x,y x,y x,y x,y x,y' for left eye, "
                    "right eye, nose, left and right corner of the mouth; or 68, 70, 106, 468 or 478 points; or a box "
                    "'left,top right,bottom'; or JSON. One line for all photos, or one line for each.",
                ),
                io.Combo.Input(
                    "background",
                    options=[*COLOURS, "keep"],
                    default="white",
                    optional=True,
                    tooltip="What replaces the background before the face is read. The encoders expect white.",
                ),
                io.Combo.Input(
                    "choose",
                    options=list(FACE_CHOICES),
                    default=FACE_CHOICES[0],
                    optional=True,
                    tooltip="What face_index counts by. all: every face of every photo gives one code, the largest "
                    "of a photo first; those outside a connected mask are left out.",
                ),
                io.Combo.Input(
                    "background_mask",
                    options=list(BACKGROUND_MASKS),
                    default=BACKGROUND_MASKS[0],
                    optional=True,
                    tooltip="How the person is told from the background, where no mask is connected. parser: by a "
                    "face-parsing network, if its file is in models/pidiff. geometric: an egg around the head. auto: "
                    "the parser where its file is.",
                ),
                io.MultiType.Input(
                    "face_landmarks",
                    types=FACE_WIRES,
                    optional=True,
                    tooltip="Faces that another node has found, in place of a detector: Detect Face Landmarks "
                    "(MediaPipe) of newer ComfyUI, or the keypoints of a DWPose or OpenPose estimator.",
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
        choose: str = FACE_CHOICES[0],
        background_mask: str = BACKGROUND_MASKS[0],
        face_landmarks: Any = None,
    ) -> io.NodeOutput:
        """See `pidiff_core.reading.read_identity`."""
        if face_landmarks is not None and (landmarks or "").strip():
            raise PIDiffError("Both landmarks and face_landmarks are given. Empty the text, or disconnect the other.")
        points = landmarks if face_landmarks is None else face_landmarks
        detectors = []
        given = read_given(points, count=len(image), size=tuple(image.shape[1:3]))
        if needs_detector(given):
            detectors = choose_detectors(  # the user's own points need none, so none has to be installed
                detector,
                own=pidiff_model.detector,
                yunet_path=find_pidiff_file(YUNET_FILE),
                insightface_root=insightface_root(),
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
            given=given,
            mask_bhw=mask,
            parser=face_parser(background_mask, model=pidiff_model, detector=detector) if mask is None else None,
            choose=choose,
            face_index=face_index,
            on_no_face=cast(OnNoFace, on_no_face),
            background=background,
            before_each=before_each,
        )
        return io.NodeOutput(reading.wplus, reading.crops_bhwc, reading.masks_bhw)
