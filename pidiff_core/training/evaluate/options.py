"""The table [evaluate] of a training configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import PIDiffError


@dataclass(frozen=True)
class EvaluateOptions:
    """Which adapters are measured, and how.

    Raises:
        PIDiffError: a number outside of its range, or no prompt.
    """

    adapters: tuple[str, ...] = ()
    """Adapter files; two or more are measured side by side on the same people, prompts and seeds."""
    data: str = "prepared"
    """Folder of prepared photos of people; best ones that none of the adapters was trained with."""
    out: str = "evaluation"
    """Folder for evaluation.json, table.txt and the contact sheet."""
    people: int = 20
    """How many people, the first ones of the data that have the most photos."""
    prompts: tuple[str, ...] = ("a photo of a person in the forest", "a photo of a person at the beach, smiling")
    """Each person is drawn once for every prompt and seed."""
    seeds: int = 2
    """Pictures of each person and prompt; diversity needs two."""
    steps: int = 20
    """Sampling steps."""
    cfg: float = 5.0
    """Guidance scale."""
    strength: float = 1.0
    """Of the identity."""
    batch_size: int = 4
    """Pictures that are drawn together."""
    recogniser: str = "auto"
    """The judge of identity: dlib, insightface, or auto for the first of them that is installed."""
    insightface: str = ""
    """Folder with InsightFace's models, if they are not in its own."""
    clip: str = ""
    """Folder of a CLIP model of yours (transformers' layout) for the alignment with the prompt; empty: not measured."""
    detector: str = "auto"
    """Finds the heads for background and edits: see prepare.detector."""
    yunet: str = ""
    """YuNet's weights file, for the detectors "yunet" and "auto"."""
    directions: str = ""
    """File of an edit direction for the edit response, or the name of one that the embedded model has; empty: none."""
    edit_strength: float = 1.5
    """How far the codes move along the direction, both ways."""
    sheet_people: int = 6
    """People on the contact sheet."""

    def __post_init__(self) -> None:
        for name in ("people", "seeds", "steps", "batch_size", "sheet_people"):
            if getattr(self, name) < 1:
                raise PIDiffError(f"evaluate.{name} is {getattr(self, name)}; it should be at least 1.")
        if not self.prompts:
            raise PIDiffError("evaluate.prompts is empty; give at least one prompt.")
