"""What is measured on pictures and masks, each a function of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...errors import PIDiffError
from ...images import pil_from_image

_INSIDE = 0.5  # a pixel belongs to the head, or to a localisation map, above this


def background_drift(images_bhwc: Tensor, base_bhwc: Tensor, *, heads: Tensor, base_heads: Tensor) -> Tensor:
    """(B,): mean absolute difference of pictures and the base's from the same seed, outside the heads of both.

    Args:
        images_bhwc, base_bhwc: (B, H, W, 3) in [0, 1].
        heads, base_heads: (B, H, W) in [0, 1].
    """
    outside = ((heads <= _INSIDE) & (base_heads <= _INSIDE)).float()
    difference = (images_bhwc - base_bhwc).abs().mean(dim=-1) * outside
    return difference.sum(dim=(1, 2)) / outside.sum(dim=(1, 2)).clamp_min(1.0)


def intersection_over_union(maps: Tensor, masks: Tensor) -> Tensor:
    """(B,): of the area of localisation maps above 0.5 and of masks above 0.5, both (B, h, w).

    Two empty areas agree: 1.
    """
    first, second = maps > _INSIDE, masks > _INSIDE
    union = (first | second).sum(dim=(1, 2))
    return torch.where(union == 0, 1.0, (first & second).sum(dim=(1, 2)) / union.clamp_min(1))


def diversity(images_bhwc: Tensor) -> float:
    """Mean absolute difference of two of the pictures (B, H, W, 3) at an eighth of their size; 0 for one picture.

    An eighth: what counts is another composition, not another grain.
    """
    small = F.avg_pool2d(rearrange(images_bhwc, "b h w c -> b c h w"), 8)
    if len(small) < 2:
        return 0.0
    first, second = torch.triu_indices(len(small), len(small), offset=1)
    return float((small[first] - small[second]).abs().mean())


def edit_response(plus_bhwc: Tensor, minus_bhwc: Tensor, *, heads: Tensor) -> tuple[Tensor, Tensor]:
    """How much an edit of the codes changes pictures of one seed: (inside the head, outside), (B,) each.

    A good adapter answers inside and keeps still outside.

    Args:
        plus_bhwc, minus_bhwc: (B, H, W, 3) in [0, 1], the codes moved both ways along a direction.
        heads: (B, H, W) in [0, 1].
    """
    difference = (plus_bhwc - minus_bhwc).abs().mean(dim=-1)
    inside = (heads > _INSIDE).float()

    def mean(weight: Tensor) -> Tensor:
        return (difference * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1.0)

    return mean(inside), mean(1.0 - inside)


class ClipAlignment:
    """Cosine of picture and prompt in a CLIP model of the user (Hessel et al. 2021, CLIPScore without its factor).

    Args:
        folder: a CLIP model in transformers' layout: config.json, model.safetensors, the tokenizer's and the image
            processor's files. Nothing is fetched.

    Raises:
        PIDiffError: not such a folder.
    """

    def __init__(self, folder: str) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise PIDiffError(
                f"{folder} is not a CLIP model: it has no config.json. Give the folder of one in transformers' layout, "
                "such as openai/clip-vit-large-patch14 downloaded by you, as --evaluate.clip, or leave it empty."
            )
        try:
            from transformers import CLIPModel, CLIPProcessor

            self._model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self._processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many kinds for a folder that lacks a file
            raise PIDiffError(
                f"The CLIP model in {folder} cannot be loaded ({type(error).__name__}: {error})."
            ) from error

    @torch.no_grad()
    def __call__(self, images_bhwc: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,): picture i against prompt i."""
        scores = []
        for image, prompt in zip(images_bhwc, prompts, strict=True):
            inputs = self._processor(
                text=[prompt], images=[pil_from_image(image[None])], return_tensors="pt", truncation=True
            )
            found = self._model(**inputs)
            scores.append(F.cosine_similarity(found.image_embeds, found.text_embeds))
        return torch.cat(scores)
