"""Face detectors behind one small interface, and the search that does not give up at the first try."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
        detectors: tried in this order. The first to find a face that a second look confirms decides, with all that it
            sees again; where none does, the first to find any.
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
    unsure: list[FaceDetection] = []  # perhaps a hard face, perhaps wallpaper: what comes later may know better
    for detector in detectors if isinstance(detectors, Sequence) else [detectors]:
        faces, confirmed = _search(image_bchw, detector, pick, has_unsure=bool(unsure))
        faces = [dataclasses.replace(face, found_by=detector.name) for face in faces]
        if confirmed:
            return faces
        unsure = unsure or faces
    return unsure


def _search(
    image_bchw: Tensor, detector: FaceDetector, pick: Pick, *, has_unsure: bool
) -> tuple[list[FaceDetection], bool]:
    """What one detector finds, and whether a second look confirms it. `has_unsure`: another has found something."""
    unsure: list[FaceDetection] = []
    for shown, to_picture in all_views(image_bchw):
        found = [face.moved(to_picture) for face in detector.detect(shown)]
        try:
            wanted = pick(found) if found else []
        except PIDiffError:
            if unsure or has_unsure:
                continue  # too few faces here are no reason to forget those of an earlier view
            raise
        if not getattr(detector, "second_look", False):
            if wanted:
                return wanted, True
            continue
        near, rest = wanted[:_LOOKED_AT_AGAIN], wanted[_LOOKED_AT_AGAIN:]
        looked = [again for face in near if (again := confirm(image_bchw, face, detector)) is not None]
        if any(agreed for _, agreed in looked):
            return [face for face, _ in looked] + rest, True
        unsure = unsure or wanted
    return unsure, False


def names_of(detectors: Iterable[FaceDetector]) -> str:
    """The detectors' names for an error's sentence."""
    return ", ".join(detector.name for detector in detectors) or "none"
