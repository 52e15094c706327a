"""Face detectors behind one small interface, and the search that does not give up at the first try."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from torch import Tensor

from ..errors import PIDiffError
from ..images import check_image_bchw
from .confirm import confirm
from .geometry import transform_box, transform_points
from .views import all_views

MIN_SIDE_PX = 16  # a face needs about that many pixels to be one
_LOOKED_AT_AGAIN = 12  # faces of one view, the first that are wanted: a crowd would take minutes


@dataclass(frozen=True, eq=False)
class FaceDetection:
    """One face, in the pixels of the picture that was searched."""

    box_xyxy: Tensor  # (4,): left, top, right, bottom
    landmarks: (
        Tensor  # (5, 2): left eye, right eye, nose, left and right corner of the mouth, as seen on the upright face
    )
    score: float  # the detector's own confidence, 0 to 1
    found_by: str = ""  # the detector's name

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        return float((self.box_xyxy[2:] - self.box_xyxy[:2]).max())

    @property
    def middle(self) -> Tensor:
        """(2,): where the face is."""
        return self.landmarks.mean(dim=0)

    def moved(self, matrix: Tensor) -> FaceDetection:
        """The same face under (3, 3); the box is the upright one that holds the moved box."""
        return FaceDetection(transform_box(matrix, self.box_xyxy), transform_points(matrix, self.landmarks), self.score)


class FaceDetector(Protocol):
    """What finds faces in one picture (1, 3, H, W) in [-1, 1], each with five points; none is an empty list.

    One that has `second_look = True` is asked again about every face that is wanted: see `confirm`.
    """

    name: str

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]: ...


Pick = Callable[[list[FaceDetection]], list[FaceDetection]]


def largest_first(faces: list[FaceDetection]) -> list[FaceDetection]:
    """All of them."""
    return sorted(faces, key=lambda face: face.size_px, reverse=True)


def find_faces(
    image_bchw: Tensor, detectors: FaceDetector | Sequence[FaceDetector], *, pick: Pick = largest_first
) -> list[FaceDetection]:
    """The faces of one picture that are wanted; several ways of showing it are tried until one finds some.

    Args:
        image_bchw: one picture (1, 3, H, W) in [-1, 1].
        detectors: tried in this order; the first to find anything decides.
        pick: which of the faces in a view are wanted, and in which order.

    Returns:
        Detections in the picture's own pixels, landmarks possibly outside of it; an empty list where none is found.

    Raises:
        PIDiffError: not one picture, or one too small to hold a face, or what `pick` says.
    """
    sizes = check_image_bchw(image_bchw)
    if sizes["B"] != 1:
        raise PIDiffError(f"Faces are searched one picture at a time, but {sizes['B']} were given.")
    if min(sizes["H"], sizes["W"]) < MIN_SIDE_PX:
        raise PIDiffError(
            f"The picture is {sizes['W']}x{sizes['H']} pixels, too small to hold a face. Give one of at least "
            f"{MIN_SIDE_PX} px a side, better 256."
        )
    for detector in detectors if isinstance(detectors, Sequence) else [detectors]:
        if faces := _search(image_bchw, detector, pick):
            return [dataclasses.replace(face, found_by=detector.name) for face in faces]
    return []


def _search(image_bchw: Tensor, detector: FaceDetector, pick: Pick) -> list[FaceDetection]:
    unsure: list[FaceDetection] = []
    for shown, to_picture in all_views(image_bchw):
        found = [face.moved(to_picture) for face in detector.detect(shown)]
        wanted = pick(found) if found else []
        if not getattr(detector, "second_look", False):
            if wanted:
                return wanted
            continue
        sure = [confirm(image_bchw, face, detector) for face in wanted[:_LOOKED_AT_AGAIN]]
        if any(face is not None for face in sure):
            return [again or face for again, face in zip_longest(sure, wanted)]
        unsure = unsure or wanted  # perhaps a hard face, perhaps wallpaper: another view may know better
    return unsure


def names_of(detectors: Iterable[FaceDetector]) -> str:
    """The detectors' names for an error's sentence."""
    return ", ".join(detector.name for detector in detectors) or "none"
