"""Prepared data as the training loop reads it: each batch is a function of its step alone."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import PIDiffError
from ...files.container import read_container
from ...wplus.codes import WPlusSpace
from .buckets import Size, plan_epoch
from .shards import (
    FORMAT,
    INDEX_FILE,
    SETTINGS_FILE,
    SETTINGS_KIND,
    IndexEntry,
    bucket_key,
    open_shard,
    read_index,
)

if TYPE_CHECKING:
    from ..bases.base import TextCondition

Kind = Literal["wild", "aligned"]
_OPEN_SHARDS = 64
_STD_PHOTOS = 4096  # whose codes tell the spread of the space
_MOST_AVERAGED = 4  # photos in an averaged code
_MASK_COVER = 1e-3  # of code_std: a number that does not vary must not divide by zero


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B rows of one bucket, on the CPU in float32."""

    latents: Tensor  # (B, C, h, w), scaled as the UNet sees them
    context: Tensor  # (B, L, W)
    pooled: Tensor | None  # (B, P), SDXL
    size_conditions: (
        Tensor | None
    )  # (B, 6), SDXL: photo's height, width; crop's top, left; height, width of the crop; px
    face_mask: Tensor  # (B, 1, h, w) in [0, 1]: the head
    codes: Tensor  # (B, S, D): offsets, of another photo of the same person if there is one
    other_codes: Tensor  # (B, S, D): offsets of another person; zeros (the average face) if there is only one person
    files: list[str]


class PreparedData:
    """The photos of a prepared folder; made by `open`."""

    def __init__(
        self,
        folder: Path,
        entries: Sequence[IndexEntry],
        *,
        rows: Sequence[int],
        tensors: dict[str, Tensor],
        settings: dict[str, Any],
    ) -> None:
        self.folder, self._entries, self._rows = folder, entries, rows
        self._tensors, self.settings = tensors, settings
        self.space = WPlusSpace(**settings["space"])
        self.latent_avg = tensors["latent_avg"]
        people: dict[str, list[int]] = {}
        for index, entry in enumerate(entries):
            people.setdefault(entry.person, []).append(index)
        self._people = list(people.values())  # the photos of each person
        self._person = {index: number for number, photos in enumerate(self._people) for index in photos}
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._epoch = lru_cache(maxsize=2)(self._planned_epoch)

    @classmethod
    def open(cls, folder: str | Path, *, base: Any = None) -> PreparedData:
        """Open what `pidiff prepare` wrote.

        Args:
            folder: the folder.
            base: the model that is trained; the latents and texts must be of its VAE and text encoder.

        Raises:
            PIDiffError: no prepared data there, not finished, or prepared for another base.
        """
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise PIDiffError(f"{folder} holds no prepared photos. Run: pidiff prepare --prepare.out {folder}")
        tensors, settings = read_container(folder / SETTINGS_FILE, kind=SETTINGS_KIND)
        if settings.get("format") != FORMAT:
            raise PIDiffError(f"{folder} was prepared by another version. Prepare the photos into a new folder.")
        if base is not None and (settings["family"], settings["fingerprint"]) != (base.family, base.fingerprint):
            raise PIDiffError(
                f"{folder} was prepared with another base model ({settings['family']}, {settings['fingerprint']}) than "
                f"this one ({base.family}, {base.fingerprint}). Prepare the photos with the base that is trained, into "
                "a new folder."
            )
        if not (folder / INDEX_FILE).is_file():
            raise PIDiffError(f"The photos in {folder} are not all prepared. Run pidiff prepare again to continue.")
        entries = read_index(folder)
        if not entries:
            raise PIDiffError(f"{folder} holds no usable photo; its failures.csv has the reasons.")
        return cls(folder, entries, rows=range(len(entries)), tensors=tensors, settings=settings)

    def __len__(self) -> int:
        """Photos."""
        return len(self._rows)

    @property
    def num_people(self) -> int:
        """People on the photos."""
        return len({self._person[row] for row in self._rows})

    @property
    def buckets(self) -> dict[Size, int]:
        """How many crops there are of each size (height, width)."""
        return dict(Counter(crop.bucket_px for row in self._rows for crop in self._entries[row].photo.crops))

    @property
    def resolution(self) -> int:
        """px: side of the aligned faces, square root of the buckets' area."""
        return int(self.settings["resolution"])

    @property
    def null_text(self) -> TextCondition:
        """The empty caption, (1, L, W), for dropped texts."""
        return self._text(0)

    @property
    def neutral_text(self) -> TextCondition:
        """The caption of the aligned faces, (1, L, W)."""
        return self._text(1)

    @property
    def code_std(self) -> Tensor:
        """(S, D): spread of the offsets over the photos, for `projection.code_std`; ones for a single photo."""
        step = max(1, len(self._entries) // _STD_PHOTOS)
        codes = torch.stack([self.codes(index) for index in range(0, len(self._entries), step)])
        return codes.std(dim=0).clamp_min(_MASK_COVER) if len(codes) > 1 else torch.ones_like(codes[0])

    @property
    def people(self) -> list[list[int]]:
        """The photos of each person, by their numbers in the index."""
        rows = set(self._rows)
        return [own for photos in self._people if (own := [index for index in photos if index in rows])]

    def codes(self, index: int, what: str = "codes") -> Tensor:
        """(S, D): offsets of a photo; `what` "mirrored" gives those of its mirror image."""
        entry = self._entries[index]
        return self._read(entry.shard, what, entry.photo.code)

    def latents(self, index: int) -> Tensor:
        """(C, h, w): the widest crop of a photo."""
        return self._first_crop(index, "latents")

    def face_mask(self, index: int) -> Tensor:
        """(1, h, w) in [0, 1]: the head in the widest crop."""
        return self._first_crop(index, "masks")

    def text(self, index: int) -> TextCondition:
        """The caption of a photo, (1, L, W)."""
        from ..bases.base import TextCondition

        entry = self._entries[index]
        context, pooled = (self._read_text(entry.shard, what, entry.photo.text) for what in ("context", "pooled"))
        assert context is not None
        return TextCondition(context[None], None if pooled is None else pooled[None])

    def split(self, held_out: int) -> tuple[PreparedData, PreparedData]:
        """The photos to train with, and `held_out` others for validation: always the same ones of the same photos.

        Codes come from all photos of a person in both.

        Raises:
            PIDiffError: fewer than one photo would be left.
        """
        if not 0 < held_out < len(self):
            raise PIDiffError(f"{held_out} photos cannot be held out of {len(self)}. Hold out fewer, or add photos.")
        order = sorted(
            self._rows, key=lambda row: hashlib.sha256(self._entries[row].photo.file.encode(errors="replace")).digest()
        )
        parts = sorted(order[held_out:]), sorted(order[:held_out])
        train, held = (
            PreparedData(self.folder, self._entries, rows=rows, tensors=self._tensors, settings=self.settings)
            for rows in parts
        )
        return train, held

    def steps_per_epoch(self, size: int, *, kind: Kind = "wild") -> int:
        """Batches of `size` in which every photo is seen about once."""
        return len(self._epoch(0, size, 0, kind))

    def batch(
        self,
        step: int,
        size: int,
        *,
        seed: int,
        kind: Kind = "wild",
        rank: int = 0,
        world: int = 1,
        averaged: float = 0.0,
        mirrored: float = 0.0,
    ) -> TrainingBatch:
        """The rows of one process in the batch of a step: a function of the arguments alone.

        Args:
            step: counts from 0 over the whole training.
            size: rows of the global batch; `rank` gets the contiguous part of it that is its own.
            seed: of the order and of the choice of reference photos.
            kind: "wild": the photos with their captions; "aligned": the faces on white with the neutral caption.
            averaged: probability of the mean code of two to four photos of the person.
            mirrored: probability of the code of the mirrored face, if `prepare.mirrored` was set.

        Raises:
            PIDiffError: `world` does not divide `size`, or a shard cannot be read.
        """
        if size % world:
            raise PIDiffError(f"A batch of {size} cannot be split into {world} equal parts. Use a multiple of {world}.")
        epoch, place = divmod(step, self.steps_per_epoch(size, kind=kind))
        chosen = self._epoch(epoch, size, seed, kind)[place]
        mine = range(rank * size // world, (rank + 1) * size // world)
        rows = [
            self._row(
                *map(int, chosen[number]), rng=np.random.default_rng([seed, 1, step, number]), kind=kind,
                averaged=averaged, mirrored=mirrored,
            )
            for number in mine
        ]  # fmt: skip
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        files = columns.pop("files")
        stacked = {name: None if values[0] is None else torch.stack(values) for name, values in columns.items()}
        return TrainingBatch(**stacked, files=files)  # type: ignore[arg-type]

    def _planned_epoch(self, epoch: int, size: int, seed: int, kind: Kind) -> np.ndarray:
        samples = [
            (row, number, crop.bucket_px, self._entries[row].repeats)
            for row in self._rows
            for number, crop in enumerate(self._entries[row].photo.crops)
        ]
        if kind == "aligned":
            square = (self.resolution, self.resolution)
            samples = [(row, number, square, repeats) for row, number, _, repeats in samples if number == 0]
        return plan_epoch(samples, size=size, rng=np.random.default_rng([seed, 0, epoch, kind == "wild"]))

    def _row(
        self, row: int, crop: int, *, rng: np.random.Generator, kind: Kind, averaged: float, mirrored: float
    ) -> dict[str, Any]:
        entry = self._entries[row]
        photo = entry.photo
        if kind == "wild":
            box = photo.crops[crop]
            latents, mask = (self._read(entry.shard, bucket_key(box.bucket_px, what), box.row) for what in _PICTURE)
            context, pooled = (self._read_text(entry.shard, what, photo.text) for what in ("context", "pooled"))
            numbers = (*photo.photo_px, box.top, box.left, *box.bucket_px)
        else:
            latents, mask = (self._read(entry.shard, f"aligned.{what}", photo.code) for what in _PICTURE)
            neutral = self.neutral_text
            context, pooled = neutral.context[0], None if neutral.pooled is None else neutral.pooled[0]
            numbers = (self.resolution, self.resolution, 0, 0, self.resolution, self.resolution)
        codes, other = self._references(row, rng, averaged=averaged, mirrored=mirrored)
        return {
            "latents": latents, "context": context, "pooled": pooled,
            "size_conditions": None if pooled is None else torch.tensor(numbers, dtype=torch.float32),
            "face_mask": mask, "codes": codes, "other_codes": other, "files": photo.file,
        }  # fmt: skip

    def _references(
        self, row: int, rng: np.random.Generator, *, averaged: float, mirrored: float
    ) -> tuple[Tensor, Tensor]:
        """Codes of the same person from other photos, and of another person."""
        person = self._person[row]
        draws = rng.random(2)
        what = "mirrored" if draws[0] < mirrored and self.settings["mirrored"] else "codes"
        others = [index for index in self._people[person] if index != row] or [row]
        count = 1
        if draws[1] < averaged and len(others) > 1:
            count = int(rng.integers(2, min(len(others), _MOST_AVERAGED) + 1))
        chosen = rng.choice(len(others), size=count, replace=False)
        codes = torch.stack([self.codes(others[index], what) for index in chosen]).mean(dim=0)
        if len(self._people) == 1:
            return codes, torch.zeros_like(codes)
        stranger = int(rng.integers(len(self._people) - 1))
        theirs = self._people[stranger + (stranger >= person)]
        return codes, self.codes(theirs[int(rng.integers(len(theirs)))])

    def _first_crop(self, index: int, what: str) -> Tensor:
        entry = self._entries[index]
        box = entry.photo.crops[0]
        return self._read(entry.shard, bucket_key(box.bucket_px, what), box.row)

    def _read(self, shard: str, key: str, row: int) -> Tensor:
        """Row `row` of a tensor in a shard, float32."""
        file = self._open.get(shard)
        if file is None:
            file = self._open[shard] = open_shard(self.folder, shard).__enter__()
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)[1].__exit__(None, None, None)
        self._open.move_to_end(shard)
        return file.get_slice(key)[row : row + 1][0].float()

    def _read_text(self, shard: str, what: str, row: int) -> Tensor | None:
        return self._read(shard, f"text.{what}", row) if f"text.{what}" in self._tensors else None

    def _text(self, row: int) -> TextCondition:
        from ..bases.base import TextCondition

        pooled = self._tensors.get("text.pooled")
        return TextCondition(
            self._tensors["text.context"][row : row + 1], None if pooled is None else pooled[row : row + 1]
        )


_PICTURE = ("latents", "masks")
