"""PIDiffTuneIdentity: refine a person's codes and a small part of the adapter on 1 to 20 photos."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui
from einops import rearrange

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.images import check_image_bhwc, pil_from_image
from .host.inputs import check_prompt, checked_inputs
from .host.wire_types import PidiffModel, PidiffWPlus, schema
from .unet.tuned_model import TunedHostModel

_PREVIEW_PX = 512


class TuneIdentity(io.ComfyNode):
    """Trains on the user's photos, inside ComfyUI."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffTuneIdentity",
            display_name="PIDiff Tune Identity (Train Person on Photos)",
            category="PIDiff",
            description="Refines a person's codes and trains a small low-rank part of the adapter on 1 to 20 photos. "
            "Save the result with PIDiff Save Codes; connect it to Apply Identity Adapter like other codes.",
            search_aliases=["train face", "fine-tune identity", "LoRA face", "DreamBooth", "more likeness"],
            inputs=[
                io.Model.Input("model", tooltip="Checkpoint model to train on. It is not changed."),
                io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt that describes the photos, for example: a photo of a person."
                ),
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with the adapter to tune."),
                PidiffWPlus.Input("wplus", tooltip="Codes of the photos, from Encode Face."),
                io.Image.Input("image", tooltip="1 to 20 photos of one person, the same ones that were encoded."),
                io.Mask.Input("face_mask", tooltip="Face masks of the photos, from Encode Face."),
                io.Int.Input(
                    "steps",
                    default=150,
                    min=1,
                    max=2000,
                    tooltip="Training steps. Start with 150; more than about 500 copy the photos.",
                ),
                io.Int.Input(
                    "rank",
                    default=4,
                    min=0,
                    max=64,
                    tooltip="Rank of the trained part of the adapter. Start with 4; 0 refines the codes only.",
                ),
                io.Float.Input(
                    "code_range",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.1,
                    optional=True,
                    tooltip="Limit of the codes' change, in standard deviations of real faces. Start with 1.",
                ),
                io.Int.Input(
                    "size_px",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    optional=True,
                    tooltip="Training resolution. Start with 512; 1024 for SDXL if the memory is enough; 128 for mini.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=25,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="Steps between two previews. Start with 25; 0: no previews.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, optional=True, tooltip="Seed of the noise. Start with 0."
                ),
            ],
            outputs=[
                PidiffWPlus.Output("tuned", display_name="wplus", tooltip="One identity: the tuned codes."),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="First photo, completed from noise with the identity.",
                ),
                io.String.Output("report", display_name="report", tooltip="Loss on the face before and after."),
            ],
        )

    @classmethod
    @checked_inputs
    def execute(
        cls,
        model: Any,
        vae: Any,
        positive: Any,
        pidiff_model: Any,
        wplus: Any,
        image: Any,
        face_mask: Any,
        steps: int = 150,
        rank: int = 4,
        code_range: float = 1.0,
        size_px: int = 512,
        preview_every: int = 25,
        seed: int = 0,
    ) -> io.NodeOutput:
        """See `pidiff_core.training.person.tune_person`."""
        # Imported only now: training is not part of ComfyUI's start.
        from ..pidiff_core.training.person import PersonOptions, PersonTuning, Step, spread_of, tune_person

        adapter = pidiff_model.require("adapter", purpose="to tune an identity")
        pidiff_model.require_space_of(wplus)
        check_prompt(model, positive, name="positive")
        with torch.inference_mode(False), torch.enable_grad():
            crops = _crops(image, face_mask, size_px)
            with torch.no_grad():
                latents = [vae.encode(picture) for picture, _ in crops]
            options = PersonOptions(steps=steps, rank=rank, code_range=code_range, seed=seed)
            tuning = PersonTuning(adapter, wplus, spread=spread_of(pidiff_model), options=options)
            tuning.to(model.load_device)
            tuned_model = TunedHostModel(
                model, tuning.adapter, positive=positive, latents=latents, masks=[mask for _, mask in crops]
            )
            progress = comfy.utils.ProgressBar(steps)

            @torch.no_grad()
            def preview(tokens: torch.Tensor) -> torch.Tensor:
                return vae.decode(tuned_model.preview(tokens)).cpu()

            def on_step(step: Step) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                shown = None
                if preview_every and step.done % preview_every == 0:
                    shown = ("JPEG", pil_from_image(preview(step.tokens)), _PREVIEW_PX)
                progress.update_absolute(step.done, step.steps, shown)

            person = tune_person(tuning, tuned_model, on_step=on_step)
            last = preview(tuning.tokens())
        report = (
            f"{len(crops)} photos, {steps} steps: loss on the face {person.loss_before:.4f} -> {person.loss_after:.4f}"
        )
        return io.NodeOutput(person.wplus, last, report, ui=ui.PreviewImage(last, cls=cls))


def _crops(image: Any, face_mask: Any, size_px: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each photo that has a face, cropped to a bucket around it: picture (1, h, w, 3) and mask (1, 1, h, w)."""
    from ..pidiff_core.training.data.buckets import bucket_sizes, nearest_bucket, widest_crop

    photos = check_image_bhwc(image.clone(), name="the photos")
    masks = face_mask.clone().float()
    masks = masks[None] if masks.ndim == 2 else masks
    if len(masks) != len(photos) or masks.shape[1:] != photos.shape[1:3]:
        raise PIDiffError(
            f"The face masks are {tuple(masks.shape)}, the photos {tuple(photos.shape[:3])}. Connect the face_mask of "
            "the Encode Face node that encoded these photos, with one face for each photo."
        )
    height, width = photos.shape[1:3]
    side = min(size_px, int((height * width) ** 0.5))
    size = nearest_bucket((height, width), bucket_sizes(max(64, side // 64 * 64)))
    crops = []
    for photo, mask in zip(photos, masks):
        rows, columns = (mask > 0.5).any(dim=1).nonzero(), (mask > 0.5).any(dim=0).nonzero()
        if len(rows) == 0:
            continue  # a photo without a face that was passed through
        head = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        box = widest_crop((height, width), size, head_xyxy=head)
        picture = box.cut(rearrange(photo, "h w c -> 1 c h w"))
        crops.append((rearrange(picture, "1 c h w -> 1 h w c"), box.cut(mask[None, None])))
    if not crops:
        raise PIDiffError("None of the photos has a face in its face mask. Use photos with a clear face.")
    return crops
