"""Likeness and background: what the judges' measures say of pictures whose answer is known."""

from __future__ import annotations

import pytest
import torch

from drawn_world.bundle import load_judge
from drawn_world.data import World
from drawn_world.likeness import Jury, head_discs
from drawn_world.render import render
from pidiff_core.mini.bundle import load_identity


@pytest.fixture(scope="module")
def jury():
    return Jury(load_judge(), load_identity().detector)


@pytest.fixture(scope="module")
def drawn():
    """Drawn people nobody was trained on, and their heads: (B, 3, 128, 128) in [-1, 1] and booleans (B, 128, 128)."""
    world = World(seed=2_000_000, people=8, scenes=1)
    scenes = [render(world.person(index), world.scene(index, medium="photo")) for index in range(8)]
    images = torch.stack([torch.from_numpy(scene.image.copy()).float() for scene in scenes]).movedim(-1, 1) / 127.5 - 1
    heads = torch.stack([torch.from_numpy(scene.face_mask.copy()).float() for scene in scenes])
    return images, heads > 0.5 * heads.amax()


def test_a_disc_holds_the_head_and_leaves_a_background(jury, drawn):
    images, heads = drawn
    discs = head_discs(jury.find(images), images.shape[-1])
    assert (heads & discs).sum() > 0.97 * heads.sum()
    assert (~discs).float().mean() > 0.2


def test_the_same_picture_is_no_change_and_another_background_is(jury, drawn):
    images, _ = drawn
    discs = head_discs(jury.find(images), images.shape[-1])[:, None]
    assert jury.background_change(images, images).abs().max() == 0.0
    brighter = torch.where(discs, images, (images + 0.5).clamp(max=1.0))
    changed = jury.background_change(images, brighter)
    assert changed.min() > 0.05
    assert changed.max() <= 0.25 + 1e-6
