"""What `pidiff prepare` runs: the encoder's file, the processes of torchrun, a line of progress."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from ...errors import PIDiffError
from ...files.loading import load_pidiff
from ...mini.bundle import load_identity
from ...model import PIDiffModel
from ..bases.base import Base
from .listing import list_photos
from .options import PrepareOptions
from .prepare import Ranks, Summary, prepare
from .shards import chunks_of, read_plans, shard_path

_PATIENCE = timedelta(days=7)  # a rank with slower photos may take its time


def run_prepare(options: PrepareOptions, *, base: Base, device: str | torch.device = "cpu") -> Summary:
    """Prepare with a progress bar; in each process of torchrun its share.

    Raises:
        PIDiffError: see `prepare.prepare`; or the encoder's file does not fit.
    """
    from tqdm import tqdm

    model = load_encoder(options.encoder, device=device)
    with torchrun_ranks() as ranks, tqdm(desc="photos", unit="photo", disable=ranks.rank > 0) as bar:

        def progress(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        return prepare(options, base=base, model=model, ranks=ranks, progress=progress)


def describe_prepare(options: PrepareOptions) -> str:
    """What `run_prepare` would do, without loading a network: for --dry-run."""
    listing = list_photos(options)
    folder = Path(options.out)
    chunks = chunks_of(read_plans(folder), photos_per_shard=options.photos_per_shard)
    planned = {photo.name: photo.version for chunk in chunks for photo in chunk.photos}
    new = sum(planned.get(photo.name) != photo.version for photo in listing.photos)
    open_photos = sum(len(chunk.photos) for chunk in chunks if not shard_path(folder, chunk.shard).exists())
    photos = listing.photos
    lines = [
        f"{len(photos)} photos of {len({photo.person for photo in photos})} people in {options.photos}",
        f"{len({photo.caption for photo in photos})} different captions, the first: {photos[0].caption}",
        f"{new} photos are new, {open_photos} are left from an earlier run; {folder} is written",
        *listing.notes,
    ]
    return "\n".join(lines)


def load_encoder(path: str, *, device: str | torch.device = "cpu") -> PIDiffModel:
    """The W+ encoder in a file, or the embedded one for "mini"."""
    if path == "mini":
        return load_identity()
    if not Path(path).is_file():
        raise PIDiffError(
            f"The encoder file {path} was not found. Give e4e_ffhq_encode.pt as --prepare.encoder, or 'mini' for the "
            "embedded one."
        )
    model = load_pidiff(adapter=None, encoder=Path(path))
    model.require("encoder", purpose="to prepare photos").to(device)
    return model


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """This process's share under torchrun; a single process otherwise."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or torch.distributed.is_initialized():
        yield Ranks()
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), world, wait=torch.distributed.barrier)
    finally:
        torch.distributed.destroy_process_group()
