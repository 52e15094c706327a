"""`pidiff train --preset person`: photos in a folder -> one small file for PIDiffLoadCodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PIDiffError
from ..face.detectors.auto import choose_detectors
from ..files.loading import load_any_adapter
from ..mini.bundle import load_identity
from ..model import PIDiffModel
from ..pipeline import encode
from ..wplus.code_files import save_codes
from .bases.base import Base
from .data.buckets import bucket_sizes
from .data.command import load_encoder
from .data.encode_chunk import RESOLUTIONS
from .data.listing import Photo, list_photos
from .data.options import PrepareOptions
from .data.read_photo import PhotoReader, ReadPhoto
from .diffusers_processor import attach_identity
from .person import MOST_PHOTOS, PersonOptions, PersonTuning, Prediction, TunedPerson, spread_of, tune_person
from .strategy import noised


class BaseWithPhotos:
    """A base of the trainer with the photos of one person; attached to the adapter that is tuned."""

    def __init__(self, base: Base, photos: list[ReadPhoto], captions: list[str], *, tuning: PersonTuning) -> None:
        self.base, self.photos = base, len(photos)
        self.device = next(base.unet.parameters()).device
        base.unet.requires_grad_(False)
        self.binding = attach_identity(base.unet, tuning.adapter)
        self._latents, self._masks, self._sizes = [], [], []
        for photo in photos:
            box, image, mask = photo.crops[0]
            latents = base.encode_images(image.to(self.device))
            self._latents.append(latents)
            self._masks.append(F.interpolate(mask, size=latents.shape[-2:], mode="area").to(self.device))
            self._sizes.append(base.size_conditions(box.size_px, original_px=photo.photo_px, crop=(box.top, box.left)))
        self._texts = [base.encode_text([caption]) for caption in captions]

    def predict(self, photo: int, levels: Tensor, *, noise_seed: int, tokens: Tensor | None) -> Prediction:
        """See `person.TunedModel`."""
        base, rows = self.base, len(levels)
        clean = self._latents[photo].expand(rows, -1, -1, -1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(noise_seed)).to(self.device)
        timesteps = (levels * len(base.alphas_cumprod)).long().to(self.device)
        noisy, target = noised(
            clean, noise, timesteps=timesteps, alphas_cumprod=base.alphas_cumprod, prediction=base.prediction
        )
        text, size = self._texts[photo], self._sizes[photo]
        inputs = {
            "context": text.context.to(self.device).expand(rows, -1, -1),
            "pooled": None if text.pooled is None else text.pooled.to(self.device).expand(rows, -1),
            "size_conditions": None if size is None else size.to(self.device).expand(rows, -1),
        }
        mask = self._masks[photo].expand(rows, -1, -1, -1)
        if tokens is None:
            return Prediction(base.predict(noisy, timesteps, **inputs), target, mask, {})
        with self.binding.identity(tokens.expand(rows, -1, -1)) as identity:
            return Prediction(base.predict(noisy, timesteps, **inputs), target, mask, identity.maps)


def describe_person(options: PersonOptions) -> str:
    """What `run_person` would do: for --dry-run."""
    photos = _photos(options)
    return (
        f"{len(photos)} photos in {options.photos}; {options.steps} steps of {options.batch_size} noise levels, "
        f"rank {options.rank}; {options.out} is written"
    )


def _photos(options: PersonOptions) -> list[Photo]:
    files = list_photos(PrepareOptions(photos=options.photos, caption=options.caption)).photos
    if len(files) > MOST_PHOTOS:
        raise PIDiffError(
            f"{options.photos} holds {len(files)} photos; a person is tuned from 1 to {MOST_PHOTOS}. Choose the "
            "clearest ones."
        )
    return files


def run_person(options: PersonOptions, *, base: Base) -> TunedPerson:
    """Tune with a progress bar and write `options.out`.

    Raises:
        PIDiffError: no or too many photos, a photo without a face, or files that do not fit together.
    """
    from tqdm import tqdm

    model = _load_model(options, base)
    files = _photos(options)
    resolution = RESOLUTIONS.get(base.family, 512)
    reader = PhotoReader(
        detectors=choose_detectors(
            options.detector, own=model.detector, yunet_path=options.yunet or None, searched=["person.yunet"]
        ),
        parser=None,
        sizes=bucket_sizes(resolution),
        resolution=resolution,
        crop_px=model.crop_size,
        crops=1,
        min_photo_px=0,
        min_face_px=0,
    )
    photos = []
    for file in files:
        try:
            photos.append(reader.read(file))
        except PIDiffError as error:
            raise PIDiffError(f"{file.name}: {error} Remove the photo, or replace it.") from error
    wplus = encode(model, torch.cat([photo.face_bchw for photo in photos]), source=Path(options.photos).name)
    device = next(base.unet.parameters()).device
    adapter = model.require("adapter", purpose="to tune an identity")
    tuning = PersonTuning(adapter, wplus, spread=spread_of(model), options=options).to(device)
    scenes = BaseWithPhotos(base, photos, [file.caption for file in files], tuning=tuning)
    try:
        with tqdm(total=options.steps, desc="tuning", unit="step") as bar:

            def on_step(step: object) -> None:
                bar.set_postfix(loss=f"{step.loss:.4f}")  # type: ignore[attr-defined]
                bar.update()

            person = tune_person(tuning, scenes, on_step=on_step)
    finally:
        scenes.binding.detach()
    save_codes(options.out, person.wplus)
    print(
        f"{len(photos)} photos, loss on the face {person.loss_before:.4f} -> {person.loss_after:.4f}\n"
        f"written: {options.out} (put it into ComfyUI's input folder and open it with PIDiff Load Codes)"
    )
    return person


def _load_model(options: PersonOptions, base: Base) -> PIDiffModel:
    """The encoder's model with the adapter that is tuned."""
    if not options.adapter:
        if base.family != "mini":
            raise PIDiffError("Give the adapter that is tuned for the person: --person.adapter adapter.safetensors")
        return load_identity()
    model = load_encoder(options.encoder)
    file = load_any_adapter(Path(options.adapter))
    if file.space != model.space:
        raise PIDiffError(f"The adapter reads codes of {file.space}, the encoder writes codes of {model.space}.")
    return dataclasses.replace(model, adapter=file.adapter)
