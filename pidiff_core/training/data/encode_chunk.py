"""The way of one chunk of photos through the networks: VAE, W+ encoder and text encoder, each in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import PIDiffError
from ...face.detectors.auto import choose_detectors
from ...images import resize_bchw
from ...model import PIDiffModel
from ...pipeline import encode
from .buckets import bucket_sizes
from .listing import Photo
from .options import PrepareOptions
from .read_photo import PhotoReader, ReadPhoto
from .shards import Chunk, Failure, PlannedPhoto, PreparedCrop, PreparedPhoto, Shard, bucket_key

RESOLUTIONS = {"mini": 128, "sd15": 512, "sd2": 768, "sdxl": 1024}  # px, by the base's family


class Base(Protocol):
    """What preparing asks of a base model: see `bases.base.Base`."""

    family: str
    fingerprint: Any

    def encode_images(self, images_bchw: Tensor) -> Tensor: ...

    def encode_text(self, texts: list[str]) -> Any: ...


def resolution_of(options: PrepareOptions, base: Base) -> int:
    """px: what the options say, or what the base was trained at."""
    return options.resolution or RESOLUTIONS.get(base.family, 512)


class ChunkEncoder:
    """The networks, and the way of a chunk through them."""

    def __init__(self, options: PrepareOptions, *, base: Base, model: PIDiffModel) -> None:
        self.options, self.base, self.model = options, base, model
        self.resolution = resolution_of(options, base)
        self.reader = PhotoReader(
            detectors=choose_detectors(
                options.detector, own=model.detector, yunet_path=options.yunet or None, searched=["prepare.yunet"]
            ),
            parser=_parser(options.parser),
            sizes=bucket_sizes(self.resolution, step_px=options.bucket_step_px),
            resolution=self.resolution,
            crop_px=model.crop_size,
            crops=options.crops,
            min_photo_px=options.min_photo_px or self.resolution // 2,
            min_face_px=options.min_face_px,
            upright=options.upright,
        )

    def steps(
        self, chunk: Chunk, *, photos: Mapping[str, Photo], shard: Shard, tensors: dict[str, Tensor]
    ) -> Iterator[int]:
        """Fill a shard and its tensors; yields 1 after each photo."""
        texts: dict[str, int] = {}
        latents = _Latents(self.base, batch_size=self.options.batch_size)
        faces: list[Tensor] = []
        codes: list[Tensor] = []
        for planned, read in self._in_order(chunk, photos):
            if isinstance(read, Failure):
                shard.failures.append(read)
                yield 1
                continue
            crops = []
            for box, image, mask in read.crops:
                row = latents.add(bucket_key(box.size_px, ""), image, mask)
                crops.append(PreparedCrop(box.size_px, row, box.top, box.left, box.resized_px))
            latents.add("aligned.", read.aligned_bchw, read.aligned_mask)
            faces.append(resize_bchw(read.face_bchw, self.model.crop_size))
            if len(faces) == self.options.batch_size:
                codes.append(self._codes(faces))
                faces.clear()
            caption = planned.version[2]
            shard.photos.append(
                PreparedPhoto(
                    file=planned.name,
                    version=planned.version,
                    code=len(shard.photos),
                    text=texts.setdefault(caption, len(texts)),
                    photo_px=read.photo_px,
                    crop_to_photo=read.crop_to_photo,
                    aligned_px=read.aligned_px,
                    found_by=read.found_by,
                    crops=crops,
                )
            )
            yield 1
        tensors |= latents.finished()
        if faces:
            codes.append(self._codes(faces))
        if codes:
            both = torch.cat(codes)
            tensors |= {"codes": both[:, 0].contiguous()}
            if self.options.mirrored:
                tensors |= {"mirrored": both[:, 1].contiguous()}
        for start in range(0, len(texts), self.options.batch_size):
            text = self.base.encode_text(list(texts)[start : start + self.options.batch_size])
            for name, values in (("text.context", text.context), ("text.pooled", text.pooled)):
                if values is not None:
                    before = [tensors[name]] if name in tensors else []
                    tensors[name] = torch.cat([*before, values.half().cpu()])

    def _codes(self, faces: list[Tensor]) -> Tensor:
        """Offsets (B, 1 or 2, S, D) of faces (1, 3, s, s), and of their mirror images."""
        batch = torch.cat(faces)
        sides = [batch, batch.flip(-1)] if self.options.mirrored else [batch]
        return torch.stack([encode(self.model, side, batch_size=len(side)).offsets for side in sides], dim=1)

    def _in_order(
        self, chunk: Chunk, photos: Mapping[str, Photo]
    ) -> Iterator[tuple[PlannedPhoto, ReadPhoto | Failure]]:
        """Photos as they are read, a few ahead of the networks, in the order of the plan."""
        waiting: deque[tuple[PlannedPhoto, Future[ReadPhoto | Failure]]] = deque()
        with ThreadPoolExecutor(self.options.workers) as pool:
            for planned in chunk.photos:
                waiting.append((planned, pool.submit(self._read, planned, photos.get(planned.name))))
                if len(waiting) > self.options.workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()

    def _read(self, planned: PlannedPhoto, photo: Photo | None) -> ReadPhoto | Failure:
        def failure(reason: str) -> Failure:
            return Failure(planned.name, planned.version, reason)

        if photo is None:
            return failure("The file has gone since it was listed.")
        if photo.version != planned.version:
            return failure("The file or its caption was changed; a later plan has the new version.")
        try:
            return self.reader.read(photo)
        except PIDiffError as error:
            return failure(str(error))
        except Exception as error:  # a stranger's file: decoders raise nearly everything, and one must not end the run
            return failure(f"The file cannot be used ({type(error).__name__}: {error}).")


class _Latents:
    """Crops on their way through the VAE: those of one size go together, in batches."""

    def __init__(self, base: Base, *, batch_size: int) -> None:
        self.base, self.batch_size = base, batch_size
        self._waiting: dict[str, list[Tensor]] = {}
        self._latents: dict[str, list[Tensor]] = {}
        self._masks: dict[str, list[Tensor]] = {}

    def add(self, key: str, image: Tensor, mask: Tensor) -> int:
        """Take a picture (1, 3, h, w) and its mask (1, 1, h, w); returns its row among those of this key."""
        self._waiting.setdefault(key, []).append(image)
        masks = self._masks.setdefault(key, [])
        masks.append(mask)
        if len(self._waiting[key]) == self.batch_size:
            self._flush(key)
        return len(masks) - 1

    def finished(self) -> dict[str, Tensor]:
        """All rows: latents and masks in half precision, the masks at the size of the latents."""
        tensors: dict[str, Tensor] = {}
        for key in self._masks:
            self._flush(key)
            latents = torch.cat(self._latents[key])
            masks = [F.interpolate(mask.float(), size=latents.shape[-2:], mode="area") for mask in self._masks[key]]
            tensors |= {f"{key}latents": latents, f"{key}masks": torch.cat(masks).half()}
        return tensors

    def _flush(self, key: str) -> None:
        if waiting := self._waiting.pop(key, []):
            with torch.no_grad():
                self._latents.setdefault(key, []).append(self.base.encode_images(torch.cat(waiting)).half().cpu())


def _parser(path: str) -> Any:
    if not path:
        return None
    from ...face.parsers.face_parser import load_parser

    return load_parser(path)
