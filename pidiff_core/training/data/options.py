"""The table [prepare] of a training configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import PIDiffError


@dataclass(frozen=True)
class PrepareOptions:
    """Which photos are prepared, and how.

    Raises:
        PIDiffError: a number outside of its range.
    """

    photos: str = ""
    """Folder of photos, searched through all its subfolders, or a data set TOML of sd-scripts."""
    out: str = "prepared"
    """Folder for the shards, the index, the list of failures and the contact sheet."""
    encoder: str = "mini"
    """File of the W+ encoder (e4e_ffhq_encode.pt or PIDiff's own), or "mini" for the embedded one."""
    detector: str = "auto"
    """How faces are found: auto, mtcnn, insightface, mediapipe, yunet, model (the encoder's own) or whole image."""
    yunet: str = ""
    """YuNet's weights file, for the detectors "yunet" and "auto"."""
    upright: bool = True
    """Look only for upright faces. false also turns the photo: photos without a face then take five times as long."""
    parser: str = ""
    """File of a face parser (BiSeNet or ParseNet) for the masks; empty: an oval around the landmarks."""
    people: str = "photos"
    """Who is who: photos (each photo is its own person), subfolders, or a CSV file with the columns file and person."""
    caption: str = "a photo of a person"
    """Caption of a photo that has no caption file; {folder} and {name} are those of the photo's file."""
    caption_extension: str = ".txt"
    """Ending of the photos' caption files."""
    caption_encoding: str = "utf-8-sig"
    """Encoding of the caption files."""
    neutral_caption: str = "a photo of a person"
    """Caption of the aligned faces of the first stage."""
    resolution: int = 0
    """The buckets have at most resolution x resolution pixels; 0: the base model's training resolution."""
    bucket_step_px: int = 64
    """Sides of the buckets are multiples of this."""
    crops: int = 1
    """Crops of each photo: the first holds as much of the photo as its bucket can, the others are closer ones."""
    mirrored: bool = False
    """Also encode the mirrored face, for `mirrored` in training."""
    min_photo_px: int = 0
    """Photos whose shorter side is below this are left out; 0: half of the resolution."""
    min_face_px: int = 64
    """Photos are left out if the face's aligned crop covers fewer pixels of the photo a side than this."""
    photos_per_shard: int = 64
    """A shard is written whole or not at all: a kill loses the work on at most this many photos."""
    batch_size: int = 4
    """Crops that go through the VAE together."""
    workers: int = 1
    """Threads that read photos and search faces while the networks run."""
    sheet_photos: int = 48
    """Photos on the contact sheet, taken at even distances; 0: no sheet."""

    def __post_init__(self) -> None:
        least = {
            "bucket_step_px": 8, "crops": 1, "photos_per_shard": 1, "batch_size": 1, "workers": 1,
            "resolution": 0, "min_photo_px": 0, "min_face_px": 0, "sheet_photos": 0,
        }  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise PIDiffError(f"prepare.{name} is {getattr(self, name)}; it should be at least {bound}.")
