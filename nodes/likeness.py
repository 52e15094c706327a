"""PIDiffLikeness: how similar the faces of pictures are to a person, as a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.face.likeness import measure_likeness
from ..pidiff_core.face.recognisers import CHOICES, FACENET_FILES, recogniser
from ..pidiff_core.images import check_image_bhwc, with_labels
from .host.folders import find_pidiff_file
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.progress import progress_bar
from .host.wire_types import schema

_NONE_LEFT = ("best one", "error")


class LikenessNode(io.ComfyNode):
    """Measures, sorts and filters pictures by a face recogniser."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffLikeness",
            display_name="PIDiff Likeness (Compare Faces)",
            category="PIDiff",
            description="Measures how similar the face in each picture is to a person, with a face recogniser, sorts "
            "the pictures and can keep only the similar ones.",
            search_aliases=["face similarity", "compare faces", "likeness score", "face distance", "best of", "filter"],
            advanced=["recogniser", "none_left"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures to measure, such as a batch from a sampler."),
                io.Image.Input(
                    "reference", tooltip="One or more photos of the person. With several, distances are averaged."
                ),
                io.Combo.Input(
                    "recogniser",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="Face recogniser. Start with auto: the first that is installed of dlib (packages dlib-bin "
                    "and face-recognition-models), insightface (models buffalo_l) and facenet (weights file in "
                    "models/pidiff).",
                ),
                io.Float.Input(
                    "keep_above",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=1.0,
                    tooltip="Least likeness in percent that a picture needs to be kept. Start with 0: keep all. 50: "
                    "the recogniser takes both faces for one person.",
                ),
                io.Combo.Input(
                    "none_left",
                    options=list(_NONE_LEFT),
                    default=_NONE_LEFT[0],
                    tooltip="What to do if no picture is above keep_above. Start with best one: keep the most similar "
                    "picture. error: stop the workflow.",
                ),
            ],
            outputs=[
                io.Image.Output("kept", display_name="images", tooltip="Pictures that were kept, the best one first."),
                io.Image.Output("labelled", display_name="labelled", tooltip="The same pictures with their percents."),
                io.String.Output("report", display_name="report", tooltip="Likeness of every picture, as text."),
                io.Float.Output("best", display_name="best", tooltip="Likeness of the best picture in percent."),
            ],
        )

    @classmethod
    @checked_inputs
    def execute(cls, images: Any, reference: Any, recogniser: str, keep_above: float, none_left: str) -> io.NodeOutput:
        """See `pidiff_core.face.likeness.measure_likeness`."""
        pictures = check_image_bhwc(images.cpu(), name="the picture")
        found = measure_likeness(
            _judge(recogniser), pictures, check_image_bhwc(reference.cpu()), on_progress=progress_bar()
        )
        kept = found.above(keep_above)
        if not kept and none_left == "error":
            raise PIDiffError(
                f"No picture has a likeness of {keep_above:g} %: the best of {len(pictures)} has "
                f"{found.label(found.order[0])} ({found.recogniser}). Lower keep_above, draw more pictures, or "
                "set none_left to 'best one'."
            )
        kept = kept or found.order[:1]
        labelled = with_labels(pictures[kept], [found.label(index) for index in kept])
        shown = report(images_bhwc=labelled, text=found.report())
        best = found.percents[found.order[0]] or 0.0
        return io.NodeOutput(pictures[kept], labelled, found.report(), best, ui=shown)


def _judge(choice: str) -> Any:
    weights = next((path for name in FACENET_FILES if (path := find_pidiff_file(name))), None)
    root = Path(folder_paths.models_dir) / "insightface"  # where other packs keep its models
    return recogniser(choice, insightface_root=root if root.is_dir() else None, facenet_weights=weights)
