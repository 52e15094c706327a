"""Faces that the user, or another node, gives in a detector's place: text, JSON, or the value on a wire.

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

from ..errors import PIDiffError
from .detection import FaceDetection
from .landmarks import are_complete, five_points

_MOST_OF_FRACTIONS = 2.0  # points that span less are fractions of the picture: no face is so small
# Where the objects of other tools keep a face's points, the best ones first.
_POINTS_OF_A_FACE = ("landmarks_xy", "landmark_2d_106", "landmarks", "keypoints", "kps")
_HOW = (
    "Write pixels as 'x,y x,y x,y x,y x,y' (left eye, right eye, nose, left and right corner of the mouth), a box as "
    "'left,top right,bottom', or JSON; the node's help page lists the forms."
)


@dataclass(frozen=True, eq=False)
class Given:
    """What is known of one photo: its faces (perhaps none), or a box in which a face is to be looked for."""

    faces: tuple[FaceDetection, ...] = ()
    box_xyxy: Tensor | None = None


def read_given(value: Any, *, count: int, size: tuple[int, int]) -> list[Given | None]:
    """What is given for each of `count` photos of this size (height, width); None where nothing is.

    Args:
        value: text, or what another node sends; None or empty text is nothing.

    Raises:
        PIDiffError: text that is no points, an unknown layout of points, or another number of photos.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return [None] * count
    try:
        if not isinstance(value, str):
            photos = _photos_of(value, count=count)
        elif (whole := _json(value)) is not None:
            photos = _photos_of(whole, count=count)
        else:
            photos = _photos_of_lines([line for line in value.splitlines() if line.strip()], count=count)
        return [_given(faces, size=size) for faces in photos]
    except PIDiffError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError) as error:  # a number for a list, a word for a number
        raise PIDiffError(f"The landmarks are laid out as no known tool does it ({error}). {_HOW}") from error


def needs_detector(given: Sequence[Given | None]) -> bool:
    """Whether a face has to be looked for in any of the photos."""
    return any(one is None or one.box_xyxy is not None for one in given)


def parse_points(text: str) -> Tensor:
    """Read "x,y x,y ..." (any separators) into points (N, 2) in pixels; PIDiffError where they are no pairs."""
    words = re.split(r"[\s,;()\[\]]+", text.strip(" \t\r\n,;()[]"))
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise PIDiffError(f"The landmarks '{_short(text)}' are not numbers. {_HOW}") from error
    if len(numbers) % 2:
        raise PIDiffError(
            f"The landmarks '{_short(text)}' are {len(numbers)} numbers, which do not make pairs of x and y. {_HOW}"
        )
    return torch.tensor(numbers).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Face:
    """Points (N, 2) as they came, NaN where one is missing, and the canvas (width, height) that they lie on."""

    points: Tensor
    canvas: tuple[float, float] | None = None
    pixels: bool = False  # certainly no fractions


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
        [_Face(parse_points(line), pixels=True)] if (value := _json(line)) is None else _faces_of(value)
        for line in lines
    ]
    return read if len(read) == count else read * count


def _photos_of(value: Any, *, count: int) -> list[list[_Face]]:
    """The faces of each photo in a value of JSON or of a wire."""
    if isinstance(value, Mapping) and "frames" in value:
        height, width = value.get("image_size") or (None, None)
        canvas = (float(width), float(height)) if height and width else None
        photos = [[_face(face, canvas) for face in frame] for frame in value["frames"]]
    elif _is_list(value) and value and all(isinstance(entry, Mapping) and "people" in entry for entry in value):
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
    are_objects = _is_list(value) and len(value) > 0 and isinstance(value[0], Mapping) and "x" not in value[0]
    if are_objects or _depth(value) == 3:
        return [_face(entry, None) for entry in value]
    return [_face(value, None)]


def _triples(keypoints: Any) -> Any:
    """OpenPose's flat list of x, y, confidence as (N, 3), or as it is where it is no such list."""
    return [keypoints[start : start + 3] for start in range(0, len(keypoints), 3)] if _is_list(keypoints) else keypoints


def _face(value: Any, canvas: tuple[float, float] | None) -> _Face:
    """One face: a list of points [x, y], [x, y, confidence] or {"x", "y"}, or an object that has one."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in _POINTS_OF_A_FACE if value.get(key) is not None), None)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        value = [[point.get("x"), point.get("y")] for point in value]
    try:
        numbers = np.asarray(value, dtype=np.float32)
        if numbers.ndim == 1:
            numbers = numbers.reshape(-1, 2)
        if numbers.ndim != 2 or numbers.shape[1] not in (2, 3):
            raise ValueError(f"shape {numbers.shape}")
    except (TypeError, ValueError) as error:
        raise PIDiffError(f"The landmarks are no face's points ({error}). {_HOW}") from error
    points = torch.from_numpy(numbers[:, :2].copy())
    if canvas is not None and numbers.shape[1] == 3:  # OpenPose: the third is the confidence, 0 for a missing point
        points[torch.from_numpy(numbers[:, 2] <= 0)] = math.nan
    return _Face(points, canvas)


def _given(faces: list[_Face], *, size: tuple[int, int]) -> Given:
    height, width = size
    picture = torch.tensor([width, height], dtype=torch.float32)
    found = []
    for face in faces:
        points = face.points
        known = points[~points.isnan().any(dim=1)]
        if not len(known) or (len(known) < len(points) and not are_complete(points)):
            continue  # a person whose face, or half of it, is not seen
        if not face.pixels and float((known.amax(dim=0) - known.amin(dim=0)).max()) <= _MOST_OF_FRACTIONS:
            points, known = points * picture - 0.5, known * picture - 0.5
        elif face.canvas is not None:
            scale = picture / torch.tensor(face.canvas)
            points, known = (points + 0.5) * scale - 0.5, (known + 0.5) * scale - 0.5
        if len(points) == 2:
            if len(faces) > 1:
                raise PIDiffError(
                    f"A box (two points) is given for a photo beside {len(faces) - 1} other faces or boxes. Give one "
                    "box alone for each photo, or the points of every face."
                )
            return Given(box_xyxy=points.flatten())
        box = torch.cat([known.amin(dim=0), known.amax(dim=0)])
        found.append(FaceDetection(box, five_points(points), 1.0))
    return Given(tuple(found))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Tensor) and value.ndim > 0)


def _depth(value: Any) -> int:
    depth = 0
    while _is_list(value):
        depth, value = depth + 1, value[0] if len(value) else None
    return depth


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."
