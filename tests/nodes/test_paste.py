"""PIDiffPastePortrait in ComfyUI: from Encode Face and Style Edit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drawn_world.drawn_person import DrawnPerson
from drawn_world.render import Scene, render

pytestmark = pytest.mark.usefixtures("comfy")


def test_an_edit_comes_into_the_photo_and_no_edit_leaves_it(pack):
    load = pack.load
    model = load("nodes").LoadMini.execute().result[3]
    drawn = render(DrawnPerson.sample(np.random.default_rng(2026)), Scene(), size=128)
    photo = torch.from_numpy(drawn.image.copy()).float()[None] / 255
    encode = load("nodes").EncodeIdentity
    wplus, _, face = encode.execute(model, photo, detector="model", face_index=0, on_no_face="error").result
    edit = {"coarse": True, "medium": True, "fine": True}
    edited = load("nodes").StyleEdit.execute(wplus, model, direction="beard", amount=1.0, **edit).result[0]
    paste = load("nodes").PastePortrait
    options = {"mode": "keep details", "feather": 0.08}
    same, mask = paste.execute(model, photo, wplus, wplus, **options).result
    assert torch.equal(same, photo)
    assert mask.shape == (1, 128, 128)
    changed, mask = paste.execute(model, photo, wplus, edited, mask=face, **options).result
    assert torch.equal(changed[mask == 0], photo[mask == 0])
    assert (changed - photo)[mask > 0.8].abs().mean() > 0.02
    assert mask[face < 0.01].max() < 0.05
    with pytest.raises(load("pidiff_core.errors").PIDiffError, match="mode should be one of"):
        paste.execute(model, photo, wplus, edited, mode="blend", feather=0.1)
