"""The five points of a face, and the ways in which a user or another node gives them in place of a detector.

The five points are left eye, right eye, nose, left corner of the mouth, right corner, as a viewer sees them on the
upright face ("left" is the viewer's left). Coordinates are (x, y) in pixels; whole numbers are the centres of pixels.

What is read:

- Text: "x,y x,y ..." in pixels, any separators; 2 points are a box (left, top; right, bottom). One line for all photos,
  or one for each.
- JSON: a list of points; a list of faces; an object with `faces`; OpenPose's object with `people` (DWPose's
  POSE_KEYPOINT), or a list of them, one for each photo.
- ComfyUI's FACE_LANDMARKS (the node MediaPipeFaceLandmarker of newer versions): an object with `frames`.

Points that span less than two pixels are fractions of the picture; those with a canvas are scaled to the picture.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PIDiffError, first_line, quoted
from ..shapes import check_shape
from .search import FaceDetection

# The points of an upright face in a detector's box, as fractions of its width and height.
_IN_BOX = ((0.30, 0.40), (0.70, 0.40), (0.50, 0.60), (0.34, 0.78), (0.66, 0.78))
# The points of a frontal face in a crop made by the FFHQ rule, if its mouth is 1.2 eye distances below the eyes
# and 0.8 of them wide: the crop's side is 1.8 * 1.2 * 2 = 4.32 eye distances, its centre a tenth of the way from the
# eyes to the mouth.
_IN_CROP = ((0.3843, 0.4722), (0.6157, 0.4722), (0.50, 0.6250), (0.4074, 0.75), (0.5926, 0.75))
# Which of many points make up each of the five: the eyes are the means of their outlines, as in the FFHQ recipe.
_IBUG = (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,))
_INSIGHTFACE = ((35, 36, 37, 39, 41, 42), (89, 90, 91, 93, 95, 96), (86,), (52,), (61,))
_MEDIAPIPE = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380), (1,), (61,), (291,))
_FARTHEST_PX = 1e6  # from the picture's corner; beyond it, float32 no longer tells neighbouring pixels apart
_LAYOUTS = {  # number of points -> the five
    5: ((0,), (1,), (2,), (3,), (4,)),
    68: _IBUG,  # iBUG 300-W: dlib, face-alignment
    70: _IBUG,  # the same and the pupils: OpenPose, DWPose
    106: _INSIGHTFACE,  # InsightFace 2d106det
    468: _MEDIAPIPE,  # MediaPipe's face mesh
    478: _MEDIAPIPE,  # the same and the irises
}


def check_landmarks(landmarks: Tensor) -> Tensor:
    """Return five points (5, 2) as float32 on the CPU; PIDiffError if they cannot be those of a face."""
    check_shape(landmarks, "5 2", name="The landmarks (left eye, right eye, nose, left and right corner of the mouth)")
    points = landmarks.detach().float().cpu()
    if not torch.isfinite(points).all():
        raise PIDiffError("The landmarks hold numbers that are not finite.")
    if points.abs().max() > _FARTHEST_PX:
        raise PIDiffError(
            f"The landmarks are up to {points.abs().max():.3g} px away from the picture. Give them in its own pixels."
        )
    eyes, mouth = points[:2].mean(dim=0), points[3:].mean(dim=0)
    if (points[1] - points[0]).norm() < 1.0 or (mouth - eyes).norm() < 1.0:
        raise PIDiffError(
            f"The landmarks {points.tolist()} are not a face: two eyes and a mouth should be at least 1 px apart. "
            "Give them in pixels, in the order left eye, right eye, nose, left and right corner of the mouth."
        )
    return points


def five_points(points: Tensor) -> Tensor:
    """Reduce the points (N, 2) of a face, in one of the known layouts, to the five (5, 2).

    Known are 5, 68 (iBUG), 70 (OpenPose), 106 (InsightFace), 468 and 478 points (MediaPipe).
    """
    if len(points) not in _LAYOUTS:
        raise PIDiffError(
            f"{len(points)} landmarks were given, but 5 (eyes, nose, corners of the mouth), 2 (corners of a box), "
            "68 (iBUG), 70 (OpenPose), 106 (InsightFace), 468 or 478 (MediaPipe) are expected."
        )
    return check_landmarks(torch.stack([points[list(group)].mean(dim=0) for group in _LAYOUTS[len(points)]]))


def are_complete(points: Tensor) -> bool:
    """Whether none of the points that make up the five is missing (NaN)."""
    needed = [index for group in _LAYOUTS.get(len(points), ()) for index in group]
    return not bool(points[needed].isnan().any())


def landmarks_in_box(box_xyxy: Tensor) -> Tensor:
    """The five points (5, 2) of an average upright face that fills the box (left, top, right, bottom)."""
    check_shape(box_xyxy, "4", name="The face's box (left, top, right, bottom)")
    box_xyxy = box_xyxy.detach().float().cpu()
    corner, size = box_xyxy[:2], box_xyxy[2:] - box_xyxy[:2]
    if not torch.isfinite(box_xyxy).all() or size.min() < 4.0 or box_xyxy.abs().max() > _FARTHEST_PX:
        raise PIDiffError(
            f"The face's box {box_xyxy.tolist()} should be left, top, right, bottom in the picture's pixels, "
            "at least 4 px a side."
        )
    return corner + torch.tensor(_IN_BOX) * size


def landmarks_in_crop(size_px: int) -> Tensor:
    """The five points (5, 2) of an average frontal face in an FFHQ-aligned crop of that size."""
    return torch.tensor(_IN_CROP) * size_px - 0.5


_MOST_NUMBERS = 1_000_000  # of all faces of a batch: a picture on the wire has more
_MOST_OF_FRACTIONS = 2.0  # points that span less are fractions of the picture: no face is so small
# Where the objects of other tools keep a face's points, the best ones first.
_POINTS_OF_A_FACE = ("landmarks_xy", "landmark_2d_106", "landmarks", "keypoints", "kps")
_HOW = (
    "Write pixels as 'x,y x,y x,y x,y x,y' (left eye, right eye, nose, left and right corner of the mouth), a box as "
    "'left,top right,bottom', or JSON; the node's help page lists the forms."
)


@dataclass(frozen=True, eq=False)
class LandmarkInput:
    """What is known about one photo: its faces (perhaps none), or a box in which to look for a face."""

    faces: tuple[FaceDetection, ...] = ()
    box_xyxy: Tensor | None = None


def read_landmarks(value: Any, *, count: int, size: tuple[int, int]) -> list[LandmarkInput | None]:
    """Read the faces of `count` photos of this size (height, width): one entry for each photo, None if none is given.

    Args:
        value: text, or the value of another node; None and empty text give no faces.

    Raises:
        PIDiffError: text that is not points, an unknown layout of points, or another number of photos.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return [None] * count
    try:
        if not isinstance(value, str):
            photos = _photos_of(_plain(value), count=count)
        elif (whole := _json(value)) is not None:
            photos = _photos_of(whole, count=count)
        else:
            photos = _photos_of_lines([line for line in value.splitlines() if line.strip()], count=count)
        return [_landmark_input(faces, size=size) for faces in photos]
    except PIDiffError:
        raise
    except (
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        RecursionError,
    ) as error:  # a number for a list, a word for a number
        raise PIDiffError(f"Unrecognised landmark format ({first_line(error)}). {_HOW}") from error


def needs_detector(landmarks: Sequence[LandmarkInput | None]) -> bool:
    """Whether a detector has to look for a face in any of the photos."""
    return any(one is None or one.box_xyxy is not None for one in landmarks)


def parse_points(text: str) -> Tensor:
    """Read "x,y x,y ..." (any separators) into points (N, 2) in pixels; PIDiffError if they are not pairs."""
    words = re.split(r"[\s,;()\[\]]+", text.strip(" \t\r\n,;()[]"))
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise PIDiffError(f"The landmarks {quoted(text)} are not numbers. {_HOW}") from error
    if not all(map(math.isfinite, numbers)):
        raise PIDiffError(f"The landmarks {quoted(text)} hold numbers that are not finite. {_HOW}")
    if len(numbers) % 2:
        raise PIDiffError(
            f"The landmarks {quoted(text)} are {len(numbers)} numbers, which cannot be split into pairs. {_HOW}"
        )
    return torch.tensor(numbers).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Face:
    """Points (N, 2) as they came, NaN for a missing one, and the size (width, height) of the canvas they refer to."""

    points: Tensor
    canvas: tuple[float, float] | None = None
    in_pixels: bool = False  # never fractions


def _plain(value: Any) -> Any:
    """Tensors and arrays of points as nested lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if not isinstance(value, np.ndarray | Tensor):
        return value
    if math.prod(value.shape) > _MOST_NUMBERS:
        raise PIDiffError(f"The landmarks have the shape {tuple(value.shape)}: more numbers than faces have. {_HOW}")
    if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_meta or value.is_quantized):
        raise PIDiffError(f"The landmarks are a {value.layout} tensor of {value.dtype} without points. {_HOW}")
    return value.tolist()


def _json(text: str) -> Any:
    """The JSON value of a text; None for other text, and for brackets around plain numbers."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value) else value


def _photos_of_lines(lines: list[str], *, count: int) -> list[list[_Face]]:
    if count == 1 and _json(lines[0]) is None:
        lines = [" ".join(lines)]  # one photo's points may be spread over lines
    if len(lines) not in (1, count):
        raise PIDiffError(f"{len(lines)} lines of landmarks were given for {count} photos: give one, or one each.")
    read = [
        [_Face(parse_points(line), in_pixels=True)] if (value := _json(line)) is None else _faces_of(value)
        for line in lines
    ]
    return read if len(read) == count else read * count


def _photos_of(value: Any, *, count: int) -> list[list[_Face]]:
    """The faces of each photo in a value of JSON or of a wire."""
    if isinstance(value, Mapping) and "frames" in value:
        height, width = value.get("image_size") or (None, None)
        canvas = (float(width), float(height)) if height and width else None
        photos = [[_face(face, canvas) for face in frame] for frame in value["frames"]]
    elif isinstance(value, list) and value and all(isinstance(entry, Mapping) and "people" in entry for entry in value):
        photos = [_faces_of(entry) for entry in value]
    else:
        photos = [_faces_of(value)]
        if count > 1 and len(photos[0]) == count:  # a list of faces, one for each photo
            photos = [[face] for face in photos[0]]
    if len(photos) not in (1, count):
        raise PIDiffError(
            f"Landmarks were given for {len(photos)} photos, but there are {count}: give one, or one each."
        )
    return photos if len(photos) == count else photos * count


def _faces_of(value: Any) -> list[_Face]:
    """The faces of one photo."""
    if isinstance(value, Mapping):
        if "people" in value:
            width, height = value.get("canvas_width"), value.get("canvas_height")
            canvas = (float(width), float(height)) if width and height else None
            flat = [person.get("face_keypoints_2d") for person in value["people"] if isinstance(person, Mapping)]
            return [_face(_triples(keypoints), canvas) for keypoints in flat if keypoints]
        return _faces_of(value["faces"]) if "faces" in value else [_face(value, None)]
    are_objects = isinstance(value, list) and value and isinstance(value[0], Mapping) and "x" not in value[0]
    if are_objects or _depth(value) == 3:
        return [_face(entry, None) for entry in value]
    return [_face(value, None)]


def _triples(keypoints: Any) -> Any:
    """OpenPose's flat list of x, y, confidence as (N, 3); any other value as it is."""
    return (
        [keypoints[start : start + 3] for start in range(0, len(keypoints), 3)]
        if isinstance(keypoints, list)
        else keypoints
    )


def _face(value: Any, canvas: tuple[float, float] | None) -> _Face:
    """One face: a list of points [x, y], [x, y, confidence] or {"x", "y"}, or an object that has one."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in _POINTS_OF_A_FACE if value.get(key) is not None), None)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = [[point.get("x"), point.get("y")] for point in value]
    try:
        numbers = np.asarray(value, dtype=np.float32)
        if numbers.ndim == 1:
            numbers = numbers.reshape(-1, 2)
        if numbers.ndim != 2 or numbers.shape[1] not in (2, 3):
            raise ValueError(f"shape {numbers.shape}")
    except (TypeError, ValueError) as error:
        raise PIDiffError(f"The landmarks are not the points of a face ({first_line(error)}). {_HOW}") from error
    # OpenPose: the third number is the confidence, 0 for a missing point.
    missing = torch.from_numpy(numbers[:, 2] <= 0) if canvas is not None and numbers.shape[1] == 3 else None
    points = torch.from_numpy(numbers[:, :2].copy())
    if not torch.isfinite(points if missing is None else points[~missing]).all():
        raise PIDiffError(f"The landmarks hold numbers that are not finite. {_HOW}")
    if missing is not None:
        points[missing] = math.nan
    return _Face(points, canvas)


def _landmark_input(faces: list[_Face], *, size: tuple[int, int]) -> LandmarkInput:
    height, width = size
    picture = torch.tensor([width, height], dtype=torch.float32)
    found = []
    for face in faces:
        points = face.points
        known = points[~points.isnan().any(dim=1)]
        if not len(known) or (len(known) < len(points) and not are_complete(points)):
            continue  # a person whose face is hidden, or half hidden
        if not face.in_pixels and float((known.amax(dim=0) - known.amin(dim=0)).max()) <= _MOST_OF_FRACTIONS:
            points, known = points * picture - 0.5, known * picture - 0.5
        elif face.canvas is not None:
            scale = picture / torch.tensor(face.canvas)
            points, known = (points + 0.5) * scale - 0.5, (known + 0.5) * scale - 0.5
        if len(points) == 2:
            if len(faces) > 1:
                raise PIDiffError(
                    f"A box (two points) is given for a photo together with {len(faces) - 1} other faces or boxes. "
                    "Give one box alone for each photo, or the points of every face."
                )
            landmarks_in_box(points.flatten())  # its error is clearer here than after a search
            return LandmarkInput(box_xyxy=points.flatten())
        box = torch.cat([known.amin(dim=0), known.amax(dim=0)])
        found.append(FaceDetection(box, five_points(points), 1.0))
    return LandmarkInput(tuple(found))


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth, value = depth + 1, value[0] if len(value) else None
    return depth
