"""The search for faces: how often a picture without a face passes as one, and how often a face is missed.

    python scripts/bench.py faces --yunet models/pidiff/yunet_final.pth

Every detector that is installed is asked alone. Pictures: `face_pictures`, and the folders that are given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from pidiff_core.face.detectors.mtcnn import MTCNNDetector
from pidiff_core.face.detectors.yunet import YuNetDetector
from pidiff_core.face.search import FaceChoice, FaceDetection, FaceDetector, find_faces
from pidiff_core.images import image_from_pil

from .face_pictures import with_face, without_face

_NEAR = 0.35  # of the face's size: how far its middle may be from the true one


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.py faces", description=__doc__)
    parser.add_argument("--yunet", type=Path, help="YuNet's weights, yunet_final.pth")
    parser.add_argument("--faces", type=Path, help="a folder of photos with a face each")
    parser.add_argument("--no-faces", type=Path, help="a folder of pictures without a face")
    options = parser.parse_args(arguments)
    detectors: list[FaceDetector] = [MTCNNDetector()]
    if options.yunet:
        detectors.append(YuNetDetector(options.yunet))
    empty = [*without_face(), *_folder(options.no_faces)]
    faces = [*with_face(), *((name, picture, None) for name, picture in _folder(options.faces))]
    results = {detector.name: measure(detector, empty, faces) for detector in detectors}
    print(json.dumps(results))
    return 0


def measure(
    detector: FaceDetector,
    empty: Iterable[tuple[str, Image.Image]],
    faces: Iterable[tuple[str, Image.Image, tuple[float, float] | None]],
) -> dict[str, object]:
    """Counts of one detector, and the pictures that it got wrong; a doubtful face counts as found."""
    false, missed, doubtful = [], [], []
    began = time.process_time()
    empty, faces = list(empty), list(faces)
    for name, picture in empty:
        found = find_faces(image_from_pil(picture), detector, choice=FaceChoice("largest first"))
        if found:
            false.append(name)
            print(f"{detector.name}: FALSE {name}{' (doubtful)' if found[0].doubtful else ''}", flush=True)
    for name, picture, middle in faces:
        found = find_faces(image_from_pil(picture), detector, choice=FaceChoice("largest first"))
        if found and found[0].doubtful:
            doubtful.append(name)
        if not found or (middle is not None and not _near(found[0], middle)):
            missed.append(name)
            print(f"{detector.name}: MISSED {name}{' (elsewhere)' if found else ''}", flush=True)
    return {
        "pictures_without_face": len(empty),
        "false": len(false),
        "false_share": len(false) / len(empty),
        "pictures_with_face": len(faces),
        "missed": len(missed),
        "missed_share": len(missed) / len(faces),
        "doubtful": doubtful,
        "cpu_s_per_picture": (time.process_time() - began) / (len(empty) + len(faces)),
    }


def _near(face: FaceDetection, middle: tuple[float, float]) -> bool:
    x, y = face.middle.tolist()
    return ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) ** 0.5 <= _NEAR * face.size_px


def _folder(folder: Path | None) -> list[tuple[str, Image.Image]]:
    paths = sorted(folder.iterdir()) if folder else []
    return [(path.name, Image.open(path).convert("RGB")) for path in paths if path.suffix.lower() in {".png", ".jpg"}]
