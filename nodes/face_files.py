"""The files that finding and cutting out faces may use, where the user has them: of this pack and of others."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import folder_paths

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.face.parsing import PARSER_FILES, PARSER_LINKS, FaceParser, load_parser
from ..pidiff_core.model import PIDiffModel
from .folders import find_pidiff_file, pidiff_folders
from .placement import place

BACKGROUND_MASKS = ("auto", "parser", "geometric")
_FOLDERS_OF_OTHERS = ("facexlib", "facedetection")  # where other packs keep face parsers


_parsers: WeakKeyDictionary[PIDiffModel, FaceParser] = WeakKeyDictionary()  # a parser goes with the last model


def face_parser(choice: str, *, model: PIDiffModel, detector: str = "auto") -> FaceParser | None:
    """The face parser for one of BACKGROUND_MASKS; None for the geometric mask.

    Args:
        choice: "auto" takes a parser where its file is present.
        model: for whose photos; the parser is kept for as long as this model is.
        detector: the user's choice of one. The parsers know photos alone, so that "auto" takes none where the model's
            own detector ("model") finds faces of another kind, such as mini's drawn ones.

    Raises:
        PIDiffError: "parser", and no file is there.
    """
    if choice == "geometric" or (choice == "auto" and detector == "model"):
        return None
    others = [Path(folder_paths.models_dir) / name for name in _FOLDERS_OF_OTHERS]
    in_ours = (path for name in PARSER_FILES if (path := find_pidiff_file(name)))
    in_others = (str(folder / name) for folder in others for name in PARSER_FILES if (folder / name).is_file())
    path = next(in_ours, None) or next(in_others, None)
    if path is not None:
        parser = _parsers[model] = load_parser(path, place=place)
        return parser
    if choice == "auto":
        return None
    searched = ", ".join([*pidiff_folders(), *map(str, others)])
    raise PIDiffError(
        f"No face parser was found: put {PARSER_LINKS} into the folder models/pidiff "
        f"(searched: {searched}), or set background_mask to 'geometric'."
    )


def insightface_root() -> str:
    """Where the packs that use InsightFace keep its models: models/insightface, models/buffalo_l and others below."""
    return str(Path(folder_paths.models_dir) / "insightface")
