"""Rendered people as photo files, and a stand-in for a base model that needs no weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from PIL import Image

from drawn_world.captions import caption
from drawn_world.data import World
from drawn_world.render import render

EACH = 3


class PoolingBase:
    """Latents are means over 8x8 px, texts their lengths: whatever reads them can be checked by hand."""

    family = "mini"

    def __init__(self, fingerprint: str = "pooling", *, pooled: bool = False) -> None:
        self.fingerprint, self.pooled = fingerprint, pooled

    def encode_images(self, images_bchw):
        small = F.avg_pool2d(images_bchw, 8)
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)

    def encode_text(self, texts):
        lengths = torch.tensor([float(len(text)) for text in texts])
        context = lengths[:, None, None].expand(-1, 4, 6).clone()
        return SimpleNamespace(context=context, pooled=lengths[:, None].expand(-1, 5).clone() if self.pooled else None)


def draw_people(folder: Path, *, people: int, each: int = EACH, seed: int = 5) -> World:
    """PNGs with captions, one subfolder a person."""
    world = World(seed=seed, people=people, scenes=each)
    for index in range(len(world)):
        path = folder / f"person_{index // each:03}" / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = world.scene(index, medium="photo")
        Image.fromarray(render(world.person(index // each), scene).image).save(path)
        path.with_suffix(".txt").write_text(caption(scene))
    return world
