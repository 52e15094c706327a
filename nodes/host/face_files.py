"""The user's choices of how a face is found, and the files of detectors and parsers, of this pack and of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import folder_paths

from ...pidiff_core.errors import PIDiffError
from ...pidiff_core.face.detectors.auto import YUNET_FILE, choose_detectors
from ...pidiff_core.face.landmark_input import LandmarkInput, needs_detector
from ...pidiff_core.face.parsers.face_parser import PARSER_FILES, PARSER_LINKS, FaceParser, load_parser
from ...pidiff_core.face.search import FaceChoice, FaceDetector
from ...pidiff_core.files.cache import FileIdentity, file_identity
from ...pidiff_core.model import PIDiffModel
from ...pidiff_core.pipeline import FaceOptions, OnNoFace
from .folders import find_pidiff_file, identities, pidiff_folders
from .model_management import place

BACKGROUND_MASKS = ("auto", "parser", "geometric")
_FOLDERS_OF_OTHERS = ("facexlib", "facedetection")  # where other packs keep face parsers


_parsers: WeakKeyDictionary[PIDiffModel, FaceParser] = WeakKeyDictionary()  # a parser goes with the last model


def face_options(
    model: PIDiffModel,
    *,
    detector: str,
    landmarks: Sequence[LandmarkInput | None],
    choose: str,
    face_index: int,
    on_no_face: str,
    background: str,
    background_mask: str,
) -> FaceOptions:
    """The inputs of EncodeIdentityW+ as one value.

    Raises:
        PIDiffError: a choice that does not exist, or a detector or parser whose package or file is missing.
    """
    choice = FaceChoice(choose, face_index)
    detectors = []
    if needs_detector(landmarks):  # the user's own points need none, so none has to be installed
        detectors = choose_detectors(
            detector,
            own=model.detector,
            yunet_path=find_pidiff_file(YUNET_FILE),
            insightface_root=str(Path(folder_paths.models_dir) / "insightface"),  # where other packs keep its models
            searched=pidiff_folders(),
        )
    return FaceOptions(
        detectors=detectors,
        choice=choice,
        on_no_face=cast(OnNoFace, on_no_face),
        parser=face_parser(background_mask, model=model, detector=detector),
        background=background,
    )


def face_file_identities() -> list[tuple[str, FileIdentity]]:
    """What changes when a detector's or a parser's file comes, goes or changes: for ComfyUI's cache."""
    others = [(str(path), file_identity(path)) for path in _parsers_of_others() if path.is_file()]
    return identities([YUNET_FILE, *PARSER_FILES]) + others


def face_parser(choice: str, *, model: PIDiffModel, detector: str = "auto") -> FaceParser | None:
    """The face parser for one of BACKGROUND_MASKS; None for the geometric mask.

    Args:
        choice: "auto" takes a parser if its file is there.
        model: the parser is kept for as long as this model is.
        detector: the user's choice of one. The parsers know photos alone, so "auto" takes none with the model's own
            detector ("model"), which finds faces of another kind, such as mini's drawn ones.

    Raises:
        PIDiffError: an unknown choice, or "parser" without a file.
    """
    if choice not in BACKGROUND_MASKS:
        raise PIDiffError(f"background_mask should be one of {', '.join(BACKGROUND_MASKS)}, not {choice!r:.40}.")
    if choice == "geometric" or (choice == "auto" and detector == "model"):
        return None
    in_ours = (path for name in PARSER_FILES if (path := find_pidiff_file(name)))
    in_others = (str(path) for path in _parsers_of_others() if path.is_file())
    path = next(in_ours, None) or next(in_others, None)
    if path is not None:
        parser = _parsers[model] = load_parser(path, place=place)
        return parser
    if choice == "auto":
        return None
    searched = ", ".join([*pidiff_folders(), *dict.fromkeys(str(path.parent) for path in _parsers_of_others())])
    raise PIDiffError(
        f"No face parser was found: put {PARSER_LINKS} into the folder models/pidiff "
        f"(searched: {searched}), or set background_mask to 'geometric'."
    )


def _parsers_of_others() -> list[Path]:
    return [Path(folder_paths.models_dir) / folder / name for folder in _FOLDERS_OF_OTHERS for name in PARSER_FILES]


def portrait_detector(model: PIDiffModel) -> FaceDetector:
    """One detector for portraits that this model's generator draws: its own if it has one, else the first installed.

    Raises:
        PIDiffError: none is installed.
    """
    if model.detector is not None:
        return model.detector
    return choose_detectors(
        "auto",
        yunet_path=find_pidiff_file(YUNET_FILE),
        insightface_root=str(Path(folder_paths.models_dir) / "insightface"),
        searched=pidiff_folders(),
    )[0]
