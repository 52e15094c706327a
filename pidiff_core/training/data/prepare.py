"""`pidiff prepare`: photos -> shards of latents, masks, codes and texts, and an index over them.

What the training loop would otherwise compute again in each epoch is computed here, once: the face, its mask, the W+
codes, the VAE's latents and the text's embeddings. Any number of processes share the work; see `shards` for why a run
may be killed at any moment.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ...errors import PIDiffError
from ...files.container import read_container, write_container
from ...model import PIDiffModel
from ..folder_lock import folder_lock
from .buckets import Size
from .encode_chunk import Base, ChunkEncoder, resolution_of
from .listing import Listing, list_photos
from .options import PrepareOptions
from .shards import (
    FAILURES_FILE,
    FORMAT,
    SETTINGS_FILE,
    SETTINGS_KIND,
    SHARD_KIND,
    SHEET_FILE,
    Chunk,
    Failure,
    IndexEntry,
    Shard,
    add_plan,
    chunks_of,
    read_plans,
    read_shard,
    remove_unfinished,
    shard_path,
    write_index,
    write_text,
)
from .sheet import contact_sheet

Progress = Callable[[int, int], None]  # photos done, photos in all, of this process


@dataclass(frozen=True)
class Ranks:
    """The share of this process: chunk i belongs to rank i modulo world."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None  # until all processes have come to the same point


@dataclass(frozen=True)
class Summary:
    """What a folder of prepared data holds."""

    photos: int  # usable
    people: int
    failures: list[Failure]
    buckets: Mapping[Size, int]  # crops of each size
    new_photos: int  # prepared by this run, failures included
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for people."""
        sizes = ", ".join(f"{w}x{h}: {count}" for (h, w), count in sorted(self.buckets.items()))
        lines = [
            f"{self.photos} photos of {self.people} people ({self.new_photos} photos were new)",
            f"buckets (width x height: crops): {sizes}",
            f"{len(self.failures)} photos could not be used" + (f", listed in {FAILURES_FILE}" * bool(self.failures)),
            *self.notes,
        ]
        return "\n".join(lines)


def prepare(
    options: PrepareOptions,
    *,
    base: Base,
    model: PIDiffModel,
    ranks: Ranks | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Prepare all photos that are not prepared yet; the same command continues after a kill and with added photos.

    Args:
        options: which photos, where to, how.
        base: the model that will be trained: its VAE and text encoder run here.
        model: its encoder reads the codes; its detector is used if `options.detector` is "model".
        ranks: the share of this process.
        progress: called after each photo.

    Raises:
        PIDiffError: nothing to prepare, other settings than the folder was made with, another run in the folder, no
            photo with a usable face, or a full disk.
    """
    ranks = ranks or Ranks()
    listing = list_photos(options)
    folder = Path(options.out)
    if ranks.rank == 0:
        with folder_lock(folder, what="prepare"):
            return _run(options, listing, folder, base=base, model=model, ranks=ranks, progress=progress)
    return _run(options, listing, folder, base=base, model=model, ranks=ranks, progress=progress)


def _run(
    options: PrepareOptions,
    listing: Listing,
    folder: Path,
    *,
    base: Base,
    model: PIDiffModel,
    ranks: Ranks,
    progress: Progress | None,
) -> Summary:
    plans = read_plans(folder)
    if ranks.rank == 0:
        remove_unfinished(folder)
        _check_settings(folder, options, base=base, model=model)
        if add_plan(folder, listing.photos, plans=plans):
            plans = read_plans(folder)
    ranks.wait()
    chunks = chunks_of(plans if ranks.rank == 0 else read_plans(folder), photos_per_shard=options.photos_per_shard)
    todo = [chunk for chunk in chunks if not shard_path(folder, chunk.shard).exists()]
    mine = todo[ranks.rank :: ranks.world]
    if mine:
        photos = {photo.name: photo for photo in listing.photos}
        work = ChunkEncoder(options, base=base, model=model)
        count, done = sum(len(chunk.photos) for chunk in mine), 0
        for chunk in mine:
            tensors: dict[str, Tensor] = {}
            shard = Shard()
            for step in work.steps(chunk, photos=photos, shard=shard, tensors=tensors):
                done += step
                if progress is not None:
                    progress(done, count)
            write_container(shard_path(folder, chunk.shard), tensors, kind=SHARD_KIND, config=shard.to_json())
    ranks.wait()
    new = sum(len(chunk.photos) for chunk in todo)
    summary = _write_index(folder, chunks, listing=listing, new_photos=new, writes=ranks.rank == 0)
    if ranks.rank == 0 and options.sheet_photos and (mine or not (folder / SHEET_FILE).exists()):
        contact_sheet(folder, {photo.name: photo.path for photo in listing.photos}, photos=options.sheet_photos)
    ranks.wait()
    return summary


def _check_settings(folder: Path, options: PrepareOptions, *, base: Base, model: PIDiffModel) -> None:
    """Write down what the data depends on, or compare with what is written."""
    settings = {
        "format": FORMAT,
        "family": base.family,
        "fingerprint": base.fingerprint,
        "space": asdict(model.space),
        "encoder": _fingerprint(model.require("encoder", purpose="to prepare photos")),
        "resolution": resolution_of(options, base),
        **{
            name: getattr(options, name)
            for name in (
                "bucket_step_px", "crops", "mirrored", "min_photo_px", "min_face_px", "photos_per_shard", "detector",
                "upright", "parser", "neutral_caption",
            )
        },
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))
    path = folder / SETTINGS_FILE
    if path.exists():
        _, there = read_container(path, kind=SETTINGS_KIND)
        different = [name for name in settings if settings[name] != there.get(name)]
        if different:
            shown = ", ".join(f"{name} was {there.get(name)}, now {settings[name]}" for name in different)
            raise PIDiffError(
                f"{folder} was prepared with other settings ({shown}). Use the same ones, or another folder as "
                "prepare.out."
            )
        return
    if any((folder / "plans").glob("*.jsonl")):
        raise PIDiffError(f"{path} is missing, but {folder} holds prepared photos. Prepare into another folder.")
    text = base.encode_text(["", options.neutral_caption])
    tensors = {"latent_avg": model.require_average(), "text.context": text.context.float()}
    if text.pooled is not None:
        tensors["text.pooled"] = text.pooled.float()
    write_container(path, tensors, kind=SETTINGS_KIND, config=settings)


def _write_index(folder: Path, chunks: list[Chunk], *, listing: Listing, new_photos: int, writes: bool) -> Summary:
    """The index over the shards: those photos of the listing whose present version is prepared."""
    wanted = {photo.name: photo for photo in listing.photos}
    entries: list[IndexEntry] = []
    failures: list[Failure] = []
    buckets: Counter[Size] = Counter()
    for chunk in chunks:
        shard = read_shard(folder, chunk.shard)
        for prepared in shard.photos:
            photo = wanted.get(prepared.file)
            if photo is not None and photo.version == prepared.version:
                buckets.update(crop.bucket_px for crop in prepared.crops)
                entries.append(IndexEntry(prepared, chunk.shard, photo.person, photo.repeats))
        failures += [one for one in shard.failures if one.file in wanted and wanted[one.file].version == one.version]
    failures.sort(key=lambda one: one.file)
    people = len({entry.person for entry in entries})
    if writes:
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["file", "reason"])
        writer.writerows([one.file, one.reason] for one in failures)
        write_text(folder / FAILURES_FILE, table.getvalue())
        write_index(folder, entries)
    if not entries:
        first = f" The first: {failures[0].file}: {failures[0].reason}" if failures else ""
        raise PIDiffError(
            f"None of the {len(listing.photos)} photos has a face that could be used; {folder / FAILURES_FILE} has "
            f"the reason for each.{first}"
        )
    return Summary(len(entries), people, failures, dict(buckets), new_photos, listing.notes)


def _fingerprint(module: nn.Module) -> str:
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
