"""EncodeIdentityW+: photos -> W+ codes, with the crop and the mask that they were read from."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.face.crop_picture import crop_pictures
from ..pidiff_core.face.detectors.auto import CHOICES, YUNET_FILE
from ..pidiff_core.face.landmark_input import read_landmarks
from ..pidiff_core.face.search import CHOICES as FACE_CHOICES
from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.pipeline import BACKGROUNDS, ON_NO_FACE, encode_photos
from ..pidiff_core.wplus.codes import WPlus
from .host.face_files import BACKGROUND_MASKS, face_file_identities, face_options
from .host.inputs import checked_inputs
from .host.node_report import MOST_PICTURES, report
from .host.progress import progress_bar
from .host.wire_types import PidiffModel, PidiffWPlus, schema

# Face outputs of other nodes: ComfyUI's own Detect Face Landmarks (MediaPipe), and DWPose or OpenPose estimators.
FACE_WIRES = [io.Custom("FACE_LANDMARKS"), io.Custom("POSE_KEYPOINT")]


class EncodeIdentity(io.ComfyNode):
    """One face of each photo, or all of them, aligned as FFHQ does, without background, read into W+ codes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="EncodeIdentityW+",
            display_name="PIDiff Encode Face (Identity W+)",
            category="PIDiff",
            description="Finds a face in each photo, aligns it, removes the background and encodes it into W+ codes.",
            has_intermediate_output=True,
            search_aliases=[
                "face encoder",
                "person",
                "portrait",
                "e4e",
                "StyleGAN inversion",
                "identity",
                "face embedding",
            ],
            advanced=["landmarks", "background", "background_mask"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with a face encoder."),
                io.Image.Input("image", tooltip="Photo, or a batch of photos. Each photo gives one code."),
                io.Combo.Input(
                    "detector",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="Face detector. Start with auto: the installed ones of MTCNN, InsightFace, MediaPipe and "
                    f"YuNet (models/pidiff/{YUNET_FILE}), in this order. model: the detector of the PIDiff model "
                    "(mini's finds drawn faces). whole image: the photo is an aligned portrait already.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=-64,
                    max=63,
                    tooltip="Which face to encode if a photo has several. Start with 0, the first in the order of "
                    "choose (the largest face by default); 1 is the next, -1 the last.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(ON_NO_FACE),
                    default="error",
                    tooltip="What to do if no face is found. Start with error: stop. pass through: keep the photo's "
                    "place in the batch and apply no identity there. whole image: use the photo as an aligned "
                    "portrait.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Mask of the person, at the photo's size: white is kept. If not connected, "
                    "background_mask decides.",
                ),
                io.String.Input(
                    "landmarks",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="Face landmarks in pixels, used instead of a detector; start empty. 'x,y x,y x,y x,y x,y' "
                    "for left eye, right eye, nose, left and right corner of the mouth; or 68, 70, 106, 468 or 478 "
                    "points; or a box 'left,top right,bottom'; or JSON. One line for all photos, or one line for each.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    optional=True,
                    tooltip="Colour that replaces the background. Start with white: the encoders were trained with it.",
                ),
                io.Combo.Input(
                    "choose",
                    options=list(FACE_CHOICES),
                    default=FACE_CHOICES[0],
                    optional=True,
                    tooltip="Order that face_index counts in. Start with largest first. all: encode every face of "
                    "every photo, the largest first; faces outside a connected mask are skipped.",
                ),
                io.Combo.Input(
                    "background_mask",
                    options=list(BACKGROUND_MASKS),
                    default=BACKGROUND_MASKS[0],
                    optional=True,
                    tooltip="How the background is removed if no mask is connected. Start with auto: parser if its "
                    "file is installed, otherwise geometric. parser: a face-parsing network (file in models/pidiff). "
                    "geometric: an oval around the head.",
                ),
                io.MultiType.Input(
                    "face_landmarks",
                    types=FACE_WIRES,
                    optional=True,
                    tooltip="Face landmarks from another node, used instead of a detector: Detect Face Landmarks "
                    "(MediaPipe) of newer ComfyUI, or the keypoints of a DWPose or OpenPose estimator.",
                ),
            ],
            outputs=[
                PidiffWPlus.Output("wplus", display_name="wplus", tooltip="W+ codes, one for each face."),
                io.Image.Output(
                    "aligned",
                    display_name="aligned",
                    tooltip="Aligned crops as the encoder received them. Check these first.",
                ),
                io.Mask.Output(
                    "face_mask", display_name="face_mask", tooltip="Mask of each face, at the photo's size."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> list[tuple[str, FileIdentity]]:
        """Encode again when the file of a detector or a parser has come, gone or changed."""
        return face_file_identities()

    @classmethod
    @checked_inputs
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
        """See `pidiff_core.pipeline.encode_photos`."""
        if face_landmarks is not None and (landmarks or "").strip():
            raise PIDiffError("Both landmarks and face_landmarks are given. Empty the text, or disconnect the other.")
        points = landmarks if face_landmarks is None else face_landmarks
        known = read_landmarks(points, count=len(image), size=tuple(image.shape[1:3]))
        options = face_options(
            pidiff_model,
            detector=detector,
            landmarks=known,
            choose=choose,
            face_index=face_index,
            on_no_face=on_no_face,
            background=background,
            background_mask="geometric" if mask is not None else background_mask,  # the user's mask needs no parser
        )
        encoded = encode_photos(
            pidiff_model, image, options, landmarks=known, mask_bhw=mask, on_progress=progress_bar()
        )
        shown = report(
            images_bhwc=crop_pictures(encoded.aligned_bhwc, encoded.crop_masks_b1hw, encoded.landmarks),
            text="\n".join(_about(row, encoded.wplus) for row in range(min(len(encoded.wplus), MOST_PICTURES))),
            warnings=encoded.warnings,
        )
        return io.NodeOutput(encoded.wplus, encoded.crops_bhwc, encoded.masks_bhw, ui=shown)


def _about(row: int, wplus: WPlus) -> str:
    """How a face was found, and how far its codes are from the average person's."""
    if not wplus.present[row]:
        return f"Face {row}: no face, no identity"
    found_by = wplus.photos[row].get("found_by", "") if row < len(wplus.photos) else ""
    distance = float(wplus.offsets[row].norm(dim=-1).mean())
    return f"Face {row}: {found_by}, {distance:.2f} from the average person"
