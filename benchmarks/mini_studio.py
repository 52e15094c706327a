"""The embedded model in a real ComfyUI, in this process: draws people through the pack's own nodes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPTS = (
    "a photo of a person in the forest wearing a red shirt",
    "a photo of a person at the beach wearing a purple shirt, smiling",
)
PROMPT_SCENES = (
    {"place": "forest", "clothes": "red", "medium": "photo", "expression": "neutral"},
    {"place": "beach", "clothes": "purple", "medium": "photo", "expression": "smile"},
)
MAP_STEPS = 6  # noise levels of an attention map


class Studio:
    """The embedded model in ComfyUI: draws people from renders of them."""

    def __init__(self, pack: Any, options: argparse.Namespace) -> None:
        self.options = options
        self._encode = pack.load("nodes.encode").EncodeIdentity
        self._apply = pack.load("nodes.apply").ApplyIdentityAdapter
        self._localise = pack.load("nodes.localise").Localise
        self.model, self._clip, self.vae, self.pidiff_model = pack.load("nodes.load_mini").LoadMini.execute().result
        self.encode_crops = pack.load("pidiff_core.pipeline").encode

    def encoded(self, references: Any) -> Any:
        """The codes of pictures (n, H, W, 3)."""
        return self._encode.execute(
            self.pidiff_model, references, detector="model", face_index=0, on_no_face="whole image"
        ).result[0]

    def applied(self, wplus: Any) -> Any:
        """The base with the identities of codes."""
        return self._apply.execute(
            model=self.model,
            pidiff_model=self.pidiff_model,
            wplus=wplus,
            strength=self.options.strength,
            preset=self.options.preset,
        ).result[0]

    def sample(self, model: Any, prompts: str | Sequence[str], *, count: int) -> tuple[Any, Any]:
        """(pictures (count, H, W, 3), latents): one prompt for all of them, or one for each."""
        import torch

        import nodes as host_nodes

        noise = {"samples": torch.zeros(count, 4, 16, 16)}  # the host expands EmptyLatentImage's four channels
        parts = []
        for row, prompt in enumerate([prompts] if isinstance(prompts, str) else prompts):
            conditions = [self.condition(text) for text in (prompt, "")]
            own = noise if isinstance(prompts, str) else {"samples": noise["samples"][:1], "batch_index": [row]}
            (out,) = host_nodes.common_ksampler(
                model, self.options.seed, self.options.steps, self.options.cfg, "euler", "normal", *conditions, own
            )
            parts.append(out["samples"])
        latents = torch.cat(parts)
        return self.vae.decode(latents), latents

    def condition(self, text: str) -> Any:
        import nodes as host_nodes

        return host_nodes.CLIPTextEncode().encode(self._clip, text)[0]

    def attention_map(self, model: Any, prompt: str, latents: Any, images: Any) -> Any:
        """(B, H, W) in [0, 1]: the identity's attention map of finished pictures."""
        found = self._localise.execute(
            model, self.condition(prompt), {"samples": latents}, MAP_STEPS, self.options.seed, stretch=False,
            image=images,
        )  # fmt: skip
        return found.result[0]

    def reconstructed(self, pictures: Any) -> Any:
        import torch

        return torch.cat([self.vae.decode(self.vae.encode(part)) for part in pictures.split(40)])


def drawn(person: Any, scene: Any) -> tuple[Any, Any]:
    """Picture (H, W, 3) in [0, 1] and exact head mask (H, W), booleans."""
    return drawn_with_points(person, scene)[:2]


def drawn_with_points(person: Any, scene: Any) -> tuple[Any, Any, Any]:
    """`drawn`, and the five points (5, 2) in pixels, pixel centres at .5."""
    import torch

    from drawn_world.render import render

    picture = render(person, scene)
    image = torch.from_numpy(picture.image.copy()).float() / 255
    return image, torch.from_numpy(picture.face_mask > 127), torch.from_numpy(picture.landmarks)


def as_bchw(image_bhwc: Any) -> Any:
    """[0, 1] pictures as the networks read them."""
    return image_bhwc.movedim(-1, 1) * 2 - 1


def write_sheet(rows: Sequence[Any], path: Path) -> None:
    """One row of pictures (n, H, W, 3) below the other."""
    import torch
    from PIL import Image

    sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(path)
