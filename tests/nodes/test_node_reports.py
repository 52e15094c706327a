"""What nodes show on themselves: pictures, text, warnings; and which inputs are folded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

FIVE = "60,50 84,50 72,65 63,78 81,78"


@pytest.fixture(scope="module")
def load(pack, comfy):
    pack.load("nodes.host.folders").register()
    return pack.load


def picture(comfy, shown):
    (entry,) = shown["images"]
    return np.asarray(Image.open(comfy.base / entry["type"] / entry["subfolder"] / entry["filename"]))


def test_encode_shows_the_crop_with_its_points_and_mask(load, comfy, mini):
    photo = torch.ones(1, 120, 160, 3)
    encode = load("nodes.encode").EncodeIdentity
    made = encode.execute(mini.pidiff_model, photo, "auto", 0, "error", landmarks=FIVE)
    shown = picture(comfy, made.ui)
    assert shown.shape == (256, 256, 3)
    assert (shown[..., 1] > shown[..., 0].astype(int) + 100).sum() > 5 * 20, "five green points"
    assert shown[2, 2].max() < 110, "what the mask removed is dark"
    distance = float(made.result[0].offsets[0].norm(dim=-1).mean())
    assert made.ui["text"][0] == f"Face 0: landmarks, {distance:.2f} from the average person"


def test_codes_are_shown_as_portraits(load, comfy, mini):
    made = load("nodes.preview").PreviewCodes.execute(mini.pidiff_model, mini.wplus.select(0))
    assert np.abs(picture(comfy, made.ui) - made.result[0][0].numpy() * 255).max() <= 1.0


def test_save_says_where_and_average_shows_its_report(load, mini):
    saved = load("nodes.codes").SaveCodes.execute(mini.wplus, "pidiff/two")
    name = saved.ui["pidiff_codes"][0]["filename"]
    assert saved.ui["text"][0].startswith(f"Saved as output/pidiff/{name} (2 people).")
    average = load("nodes.combine").MeanCodes.execute(mini.wplus)
    assert average.ui["text"][0] == average.result[1]


@pytest.mark.parametrize(
    ("inputs", "warning"),
    [
        ({}, None),
        ({"start_percent": 0.8, "end_percent": 0.8}, "start_percent (0.8) is not below end_percent (0.8)"),
        ({"strength": 2.5}, "strength 2.5 is beyond the useful range"),
        ({"mask": torch.zeros(1, 8, 8)}, "the mask is empty"),
        ({"mask": torch.zeros(8, 8)}, "the mask is empty"),
        ({"mask": torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])}, "mask 1 of 2 is empty"),
    ],
)
def test_apply_warns_of_what_can_hardly_be_meant(load, mini, inputs, warning):
    made = load("nodes.apply").ApplyIdentityAdapter.execute(mini.model, mini.pidiff_model, mini.wplus, **inputs)
    if warning is None:
        assert made.ui is None
    else:
        assert warning in made.ui["pidiff_warnings"][0]
        assert made.ui["text"][0] == made.ui["pidiff_warnings"][0]


@pytest.mark.parametrize(
    ("first", "second", "mixed"),
    [
        ({}, {}, True),
        ({"place": "left to right"}, {"place": "left to right"}, False),
        ({"place": "left to right"}, {}, False),
        ({"mask": torch.eye(8)}, {}, False),
        ({}, {"mask": torch.eye(8)}, False),
        ({"end_percent": 0.5}, {"start_percent": 0.5}, False),
        ({"end_percent": 0.6}, {"start_percent": 0.5}, True),
        ({"strength": 0.0}, {}, False),
        ({}, {"strength": -0.5}, False),
    ],
)
def test_apply_warns_of_two_people_in_one_face(load, mini, first, second, mixed):
    codes = {"codes": mini.wplus.select(0)}
    chained = mini.apply(**codes, **first)
    node = load("nodes.apply").ApplyIdentityAdapter
    made = node.execute(chained, mini.pidiff_model, mini.wplus.select(1), **second)
    warnings = [] if made.ui is None else made.ui["pidiff_warnings"]
    assert any("both people are mixed in each face" in warning for warning in warnings) == mixed


def test_paste_warns_of_an_empty_mask(load, mini):
    photo = torch.full((1, 120, 160, 3), 0.5)
    encode = load("nodes.encode").EncodeIdentity
    codes = encode.execute(mini.pidiff_model, photo, "auto", 0, "error", landmarks=FIVE).result[0]
    paste = load("nodes.paste").PastePortrait
    empty = torch.zeros(1, 120, 160)
    made = paste.execute(mini.pidiff_model, photo, codes, codes, "keep details", 0.08, mask=empty)
    assert made.ui["pidiff_warnings"] == ["Nothing is changed: the mask is empty. White is what may change."]
    made = paste.execute(mini.pidiff_model, photo, codes, codes, "keep details", 0.08)
    assert "pidiff_warnings" not in made.ui


def test_negative_strength_takes_away_what_positive_strength_adds(mini):
    for call in mini.seen(mini.apply(codes=mini.wplus.select(0), strength=-0.5)).calls:
        torch.testing.assert_close(call.added, mini.expected(call, factors=-0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "visible"),
    [
        ("apply", "ApplyIdentityAdapter", ["strength", "start_percent", "end_percent", "preset", "place"]),
        ("encode", "EncodeIdentity", ["detector", "face_index", "on_no_face", "choose"]),
        ("edit", "StyleEdit", []),
    ],
)
def test_few_inputs_are_shown_and_the_others_are_folded(load, module, name, visible):
    schema = getattr(load(f"nodes.{module}"), name).define_schema()
    widgets = [entry for entry in schema.inputs if entry.io_type in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")]
    assert [entry.id for entry in widgets if not entry.as_dict().get("advanced")] == visible
    assert len(visible) < len(widgets)
