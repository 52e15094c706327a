"""The search for faces in a photo: the views for the detectors, the verification of detections, the choice of a face.

A detector gets the photo unchanged, then with a border, enlarged and rotated, until it finds a face. Detectors report
upright faces with a high score also on sideways and upside-down faces, and on photos without a face. Each detection is
therefore verified: the true landmarks of a face stay fixed when the view is rotated, false ones rotate with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PIDiffError, check_interrupted
from ..images import (
    check_photo,
    cut_bchw,
    pixel_scaling,
    reduced_bchw,
    resize_bchw,
    rotation,
    shift,
    transform_box,
    transform_points,
    turn,
    warp,
)

MIN_SIDE_PX = 16  # a face needs about that many pixels


@dataclass(frozen=True, eq=False)
class FaceDetection:
    """One face, in the pixels of the picture that was searched."""

    box_xyxy: Tensor  # (4,): left, top, right, bottom
    landmarks: Tensor  # (5, 2): left eye, right eye, nose, corners of the mouth, as seen on the upright face
    score: float  # the detector's own confidence, 0 to 1
    found_by: str = ""  # the detector's name
    doubtful: bool = False  # verification neither confirmed nor refuted it

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        return float((self.box_xyxy[2:] - self.box_xyxy[:2]).max())

    @property
    def middle(self) -> Tensor:
        """(2,): the mean of the landmarks."""
        return self.landmarks.mean(dim=0)

    @property
    def centre(self) -> Tensor:
        """(2,): the middle of the box."""
        return (self.box_xyxy[:2] + self.box_xyxy[2:]) / 2

    def moved(self, matrix: Tensor) -> FaceDetection:
        """The same face under (3, 3); the box is the upright one that holds the moved box."""
        return dataclasses.replace(
            self,
            box_xyxy=transform_box(matrix, self.box_xyxy),
            landmarks=transform_points(matrix, self.landmarks),
        )


class FaceDetector(Protocol):
    """Finds the faces of one picture (1, 3, H, W) in [-1, 1], each with five points; none is an empty list.

    The detections of a detector with `second_look = True` are verified; a method `detect_large` of it, which need not
    find faces below 50 px, makes that faster.
    """

    name: str

    def detect(self, image_bchw: Tensor) -> list[FaceDetection]: ...


def large_face_detector(detector: FaceDetector) -> Callable[[Tensor], list[FaceDetection]]:
    """The detector's method for pictures whose faces are large."""
    return getattr(detector, "detect_large", detector.detect)


# ------------------------------------------------------------------------------------------------ which face is meant

ALL = "all"
MOST_FACES = 256  # of one photo: the limit of "all"
# The order of faces: the smallest of these values is the first, and the name of the first.
_ORDERS: dict[str, tuple[str, Callable[[FaceDetection, Tensor], float]]] = {
    "largest first": ("largest", lambda face, centre: -face.size_px),
    "left to right": ("leftmost", lambda face, centre: float(face.middle[0])),
    "top to bottom": ("topmost", lambda face, centre: float(face.middle[1])),
    "centre first": ("nearest to the middle", lambda face, centre: float((face.middle - centre).norm())),
}
CHOICES = (*_ORDERS, ALL)


@dataclass(frozen=True)
class FaceChoice:
    """Which of the faces in one photo are meant.

    Args:
        choose: one of CHOICES; "all" is every face, the largest first.
        index: a face's number in that order, from 0; negative ones count from the end. "all" does not use it.
    """

    choose: str = ALL
    index: int = 0

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise PIDiffError(f"Faces can be chosen {', '.join(CHOICES)}, but '{self.choose!s:.40}' was asked for.")
        if isinstance(self.index, bool) or not isinstance(self.index, int):
            raise PIDiffError(f"The face_index should be a whole number, but it is {self.index!r:.40}.")

    def in_order(self, faces: Iterable[FaceDetection], size: tuple[int, int]) -> list[FaceDetection]:
        """All faces in the order that the index counts by, for a photo of this size (height, width)."""
        centre = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
        _, value = _ORDERS["largest first" if self.choose == ALL else self.choose]
        return sorted(faces, key=lambda face: value(face, centre))

    def pick(self, faces: Iterable[FaceDetection], size: tuple[int, int]) -> list[FaceDetection]:
        """The faces that are meant, of at least one; PIDiffError if there is no face of this number."""
        faces = self.in_order(faces, size)
        if self.choose == ALL:
            if len(faces) > MOST_FACES:
                raise PIDiffError(
                    f"{len(faces)} faces were found, more than the {MOST_FACES} that 'all' reads from one photo. "
                    "Cut the photo into parts, or connect a mask of the faces that you want."
                )
            return faces
        if not -len(faces) <= self.index < len(faces):
            raise PIDiffError(
                f"Face {self.index} was asked for, but only {len(faces)} found (0 is the {_ORDERS[self.choose][0]}). "
                "Choose a smaller face_index, or give landmarks."
            )
        return [faces[self.index]]

    def enough(self, count: int) -> bool:
        """Whether the first `count` faces, counted from the end that the index counts from, hold the one meant."""
        return self.choose != ALL and count >= (self.index + 1 if self.index >= 0 else -self.index)


# --------------------------------------------------------------------------------- how a photo is shown to a detector

_MAX_ENLARGEMENT = 4.0  # beyond that, only the interpolation would be seen
_LONGEST_PX = 2048  # of a view: the photo is reduced to it once, and all views are made from the reduced copy


@dataclass(frozen=True)
class View:
    """One way to show the photo."""

    long_side_px: int  # the photo is scaled so that its longer side has at most (or, with `enlarge`, exactly) this
    enlarge: bool = False  # small faces
    border: float = 0.0  # plain border around it, in longer sides: faces that fill or leave the photo
    degrees: int = 0  # counter-clockwise: lying, tilted and upside-down faces


# The likely and the quick ones first. Detectors see faces that are tilted by some 30 degrees, so steps of 45 leave no
# angle out.
VIEWS = (
    View(1024),
    View(640, border=0.35),
    View(1024, enlarge=True),
    *(View(640, border=0.2, degrees=degrees) for degrees in (90, 270, 180)),
    View(320, enlarge=True, border=0.6),
    View(_LONGEST_PX, enlarge=True),
    *(View(640, border=0.2, degrees=degrees) for degrees in (45, 315, 135, 225)),
)


def show(image_bchw: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """The picture (1, 3, H, W) as it looks in this view (1, 3, h, w), and the matrix (3, 3): view px -> picture px."""
    height, width = image_bchw.shape[-2:]
    scale = min(view.long_side_px / max(height, width), _MAX_ENLARGEMENT)
    if not view.enlarge:
        scale = min(scale, 1.0)
    shown = resize_bchw(image_bchw, (max(1, round(height * scale)), max(1, round(width * scale))))
    to_picture = pixel_scaling(width / shown.shape[3], height / shown.shape[2])
    if margin_px := round(view.border * max(shown.shape[-2:])):
        # A plain grey border: a mirrored one would show faces that are not there.
        shown = F.pad(shown, (margin_px,) * 4, value=0.0)
        to_picture = to_picture @ shift(-margin_px, -margin_px)
    if view.degrees:
        shown, to_bordered = turn(shown, view.degrees)
        to_picture = to_picture @ to_bordered
    return shown, to_picture


UPRIGHT_VIEWS = VIEWS[:3]  # enough for all but a few photos, and a photo without a face takes a fifth of the time


def all_views(image_bchw: Tensor, views: Sequence[View] = VIEWS) -> Iterator[tuple[Tensor, Tensor]]:
    """What `show` makes of every view in turn, without those that look like an earlier one."""
    seen: set[tuple[float, ...]] = set()
    for view in views:
        shown, to_picture = show(image_bchw, view)
        key = (*shown.shape, *to_picture.flatten().tolist())
        if key not in seen:  # a large picture is not enlarged: the same view again
            seen.add(key)
            yield shown, to_picture


# --------------------------------------------------------------------------------------------------------- the search


_LOW_CONTRAST, _GOOD_CONTRAST = 0.5, 0.95  # of a photo in [0, 1], without its darkest and brightest hundredths
_MAX_GAIN = 8.0  # beyond that, only noise would be seen


def find_faces(
    photo_bhwc: Tensor,
    detectors: FaceDetector | Sequence[FaceDetector],
    *,
    choice: FaceChoice = FaceChoice(),
    within: Callable[[FaceDetection], bool] | None = None,
    views: Sequence[View] = VIEWS,
    on_progress: Callable[[float], None] | None = None,
) -> list[FaceDetection]:
    """The faces of one photo that are meant; several ways of showing it are tried until one shows a face.

    Args:
        photo_bhwc: one photo (1, H, W, 3) in [0, 1].
        detectors: tried in this order. The first to find a face that verification confirms decides. If none does, the
            first to find a doubtful one, which is then marked as such.
        choice: which of the faces in a view are meant.
        within: detections for which it is False are not meant.
        views: the ways that are tried.
        on_progress: called with the fraction of the search that is done, from 0 to 1.

    Returns:
        Detections in the photo's own pixels, landmarks possibly outside of it; an empty list if there is none.

    Raises:
        PIDiffError: not one photo, one too small to hold a face, or no face of the number that is asked for.
    """
    sizes = check_photo(photo_bhwc)
    size = sizes["H"], sizes["W"]
    if min(size) < MIN_SIDE_PX:
        raise PIDiffError(
            f"The photo is {size[1]}x{size[0]} pixels, too small to hold a face. Give one of at least "
            f"{MIN_SIDE_PX} px a side, better 256."
        )
    detectors = list(detectors) if isinstance(detectors, Sequence) else [detectors]
    copy_bchw, to_photo = reduced_bchw(photo_bhwc, _LONGEST_PX)
    exposure = _exposure(copy_bchw)
    copy_bchw = _exposed(copy_bchw, exposure)
    doubtful: list[FaceDetection] = []
    for number, detector in enumerate(detectors):
        verification = _Verification(photo_bhwc, detector, exposure)
        for step, (shown, to_copy) in enumerate(all_views(copy_bchw, views)):
            if on_progress is not None:
                on_progress((number + step / len(views)) / len(detectors))
            check_interrupted()
            found = [face.moved(to_photo @ to_copy) for face in detector.detect(shown)]
            if within is not None:
                found = [face for face in found if within(face)]
            confirmed, unsure = verification.sort(choice.in_order(found, size), choice)
            confirmed, unsure = (
                [dataclasses.replace(face, found_by=detector.name) for face in faces] for faces in (confirmed, unsure)
            )
            if confirmed:
                return choice.pick(confirmed if choice.enough(len(confirmed)) else confirmed + unsure, size)
            doubtful = doubtful or unsure
    return choice.pick(doubtful, size) if doubtful else []


def _exposure(image_bchw: Tensor) -> tuple[float, float]:
    """Factor and offset that a dark or flat photo gets for the search: detectors do not see faces in the dark."""
    light = (image_bchw[:, :, ::4, ::4].flatten() + 1.0) / 2.0
    low, high = (float(light.kthvalue(max(1, round(part * light.numel()))).values) for part in (0.01, 0.99))
    if high - low >= _LOW_CONTRAST:
        return 1.0, 0.0
    factor = min(_GOOD_CONTRAST / max(high - low, 1e-3), _MAX_GAIN)
    return factor, 0.5 - factor * (low + min(high, low + 1.0 / factor)) / 2.0


def _exposed(image_bchw: Tensor, exposure: tuple[float, float]) -> Tensor:
    factor, offset = exposure
    return image_bchw if factor == 1.0 else ((image_bchw + 1.0) * factor + 2.0 * offset - 1.0).clamp(-1.0, 1.0)


def names_of(detectors: Iterable[FaceDetector]) -> str:
    """The detectors' names for an error's sentence."""
    return ", ".join(detector.name for detector in detectors) or "none"


# ----------------------------------------------------------------------------------------- which detections are faces

_VIEW_PX = 224  # the side of a rotated view
_FACE_PX = 100.0  # the face's size in it: what every detector is good at
_STEP = 30  # degrees between two neighbouring views
_TRIED = 3  # directions of the face that are looked into, if it is not as it was found
# Mean distance between the same points of neighbouring views, in sizes of the face. On upright faces of photos it is
# 0.01 to 0.06; that of false points 0.08 and more. `confirmed_up_to` of a detector is another limit.
_CONFIRMED = 0.065
# Points of a blurred, dark or covered face differ by up to 0.11, and the detector's score is high all the same; that of
# other things is not. Such a face is returned if nothing better is found, and marked as doubtful. `doubtful_up_to` of a
# detector is another limit, if its points are less steady.
_DOUBTFUL, _DOUBTFUL_SCORE = 0.11, 0.98
_NEAR = 0.3  # of the face's size: how far its middle may seem to move from view to view
_VERIFIED = 24  # faces of a photo, for "all": if most of these are confirmed, it takes the rest as doubtful ones
_MOST_REFUTED = 48  # detections of one view
_TURNED_ROUND = 8  # detections of a photo that are looked at from all sides; a page of drawings would take minutes


class _Verification:
    """Verifies the detections of one detector in one photo; remembers the rejected ones."""

    def __init__(self, photo_bhwc: Tensor, detector: FaceDetector, exposure: tuple[float, float]) -> None:
        self.photo_bhwc, self.exposure = photo_bhwc, exposure
        self._detect_large = large_face_detector(detector)
        self._confirmed = getattr(detector, "confirmed_up_to", _CONFIRMED)
        self._doubtful = getattr(detector, "doubtful_up_to", _DOUBTFUL)
        # A face that is turned round has to be confirmed by two looks: of a dozen views of a drawn animal, three
        # neighbours may agree by chance. If the detector's points are less steady, two hardly ever do, and one will do.
        self._turned, self._looks = (self._doubtful, 1) if self._doubtful > _DOUBTFUL else (self._confirmed, 2)
        self.verifies = getattr(detector, "second_look", False)
        self._refuted: list[FaceDetection] = []
        self._turned_round = 0

    def sort(self, faces: list[FaceDetection], choice: FaceChoice) -> tuple[list[FaceDetection], list[FaceDetection]]:
        """The confirmed and the doubtful ones among faces in order, as far as the choice needs to know them."""
        if not self.verifies:
            return faces, []
        confirmed: list[FaceDetection] = []
        doubtful: list[FaceDetection] = []
        for number, face in enumerate(faces if choice.index >= 0 else reversed(faces)):
            if number >= _VERIFIED and choice.choose == ALL and 2 * len(confirmed) >= number:
                # A crowd: the rest are too small and too many to be verified.
                doubtful += [dataclasses.replace(other, doubtful=True) for other in faces[number:]]
                break
            if number - len(confirmed) >= _MOST_REFUTED:
                break
            if any(_same_place(face, other) for other in self._refuted):
                continue
            again, distance = self._verified(face)
            if distance <= self._confirmed:
                confirmed.append(again)
            elif distance <= self._doubtful and face.score >= _DOUBTFUL_SCORE:
                doubtful.append(dataclasses.replace(again, doubtful=True))
            else:
                self._refuted.append(face)
            if choice.enough(len(confirmed)):
                break
        return confirmed, doubtful

    def _verified(self, face: FaceDetection) -> tuple[FaceDetection, float]:
        """The face with the points that hold when the view is rotated, and how far those of neighbouring views differ.

        The difference is in sizes of the face; infinite if no other view shows the face.
        """
        window, to_photo = self._window(face)
        found = face.moved(torch.linalg.inv(to_photo))
        best, least = self._agreed(window, found)
        if least > self._confirmed and self._turned_round < _TURNED_ROUND:  # it may be sideways or upside down
            self._turned_round += 1
            circle = [self._look(window, found, _roll(found) + turned) for turned in range(0, 360, _STEP)]
            neighbours = zip(circle, [circle[-1], *circle[:-1]], [*circle[1:], circle[0]])
            likely = sorted(((_disagreement(*three), three[0]) for three in neighbours), key=lambda pair: pair[0])
            looks = [self._agreed(window, look) for _, look in likely[:_TRIED] if look is not None]
            looks.sort(key=lambda look: look[1])
            if len(looks) >= self._looks and looks[self._looks - 1][1] <= self._turned and looks[0][1] < least:
                best, least = looks[0]
        if best is None:
            return face, math.inf
        return dataclasses.replace(face, landmarks=transform_points(to_photo, best.landmarks)), least

    def _window(self, face: FaceDetection) -> tuple[Tensor, Tensor]:
        """The surroundings of a face that rotated views need, and the matrix (3, 3): their px -> photo px."""
        x, y = face.centre.tolist()
        reach = face.size_px * (_VIEW_PX / _FACE_PX / math.sqrt(2.0) + _NEAR) + 2.0
        factor = face.size_px / _FACE_PX
        window, to_photo = cut_bchw(
            self.photo_bhwc,
            left=math.floor(x - reach),
            top=math.floor(y - reach),
            right=math.ceil(x + reach),
            bottom=math.ceil(y + reach),
            # Views of a larger face would be sampled from few of its pixels: noise, not a face.
            reduction=factor if factor > 2.0 else 1.0,
        )
        return _exposed(window, self.exposure), to_photo

    def _agreed(self, window: Tensor, face: FaceDetection) -> tuple[FaceDetection | None, float]:
        """The face shown upright, if it is seen there, and how far its points are from those of neighbouring views."""
        roll = _roll(face)
        look, before, after = (self._look(window, face, roll + turned) for turned in (0, -_STEP, _STEP))
        return look, _disagreement(look, before, after)

    def _look(self, window: Tensor, face: FaceDetection, degrees: float) -> FaceDetection | None:
        """What the detector finds at this place if a face of this roll is shown upright."""
        middle = (_VIEW_PX - 1) / 2
        to_window = shift(*face.centre.tolist()) @ rotation(degrees, face.size_px / _FACE_PX) @ shift(-middle, -middle)
        check_interrupted()
        view = warp(window, to_window, (_VIEW_PX, _VIEW_PX))
        found = [seen.moved(to_window) for seen in self._detect_large(view)]
        nearest = min(found, key=lambda seen: float((seen.centre - face.centre).norm()), default=None)
        if nearest is None or float((nearest.centre - face.centre).norm()) > _NEAR * face.size_px:
            return None
        return nearest


def _same_place(face: FaceDetection, other: FaceDetection) -> bool:
    near = float((face.centre - other.centre).norm()) < _NEAR * other.size_px
    return near and 0.6 < face.size_px / max(other.size_px, 1e-6) < 1.6


def _disagreement(look: FaceDetection | None, before: FaceDetection | None, after: FaceDetection | None) -> float:
    """How far a look's points are from its neighbours', in sizes of the face; infinite if nothing was seen."""
    seen = [other for other in (before, after) if other is not None]
    if look is None or not seen:
        return math.inf
    return max(float((look.landmarks - other.landmarks).norm(dim=1).mean()) for other in seen) / look.size_px


def _roll(face: FaceDetection) -> float:
    """Degrees, clockwise as one sees it, by which the face is tilted: 0 if the eyes are above the mouth."""
    down = face.landmarks[3:].mean(dim=0) - face.landmarks[:2].mean(dim=0)
    return math.degrees(math.atan2(-float(down[0]), float(down[1])))
