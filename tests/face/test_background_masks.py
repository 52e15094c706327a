"""Background removal: the geometric head mask and the colour that takes the background's place."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.face.crop import check_mask, head_mask, remove_background, soften
from pidiff_core.face.landmark_input import landmarks_in_crop


def test_the_head_is_inside_and_the_corners_are_not():
    points = landmarks_in_crop(128)
    mask = head_mask(points, size=(128, 128))[0, 0]
    for x, y in points.round().int().tolist():
        assert mask[y, x] == 1.0
    assert mask[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0.0
    assert 0.35 < float(mask.mean()) < 0.65
    assert float(((mask > 0) & (mask < 1)).float().mean()) > 0.03  # feathered


def test_the_mask_turns_with_the_face():
    points = landmarks_in_crop(65)
    lying = torch.stack([64 - points[:, 1], points[:, 0]], dim=1)  # a quarter turn clockwise
    mask = head_mask(points, size=(65, 65))
    torch.testing.assert_close(head_mask(lying, size=(65, 65)), torch.rot90(mask, -1, dims=(2, 3)), atol=1e-4, rtol=0)


def test_a_face_outside_of_the_picture_leaves_an_empty_mask():
    assert head_mask(landmarks_in_crop(64) + 500, size=(64, 64)).max() == 0.0


@pytest.mark.parametrize(("colour", "value"), [("white", 1.0), ("grey", 0.0), ("black", -1.0)])
def test_the_background_becomes_a_colour(colour, value):
    image = torch.full((1, 3, 4, 4), 0.5)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0], mask[..., 1] = 1.0, 0.5
    result = remove_background(image, mask, colour=colour)
    expected = torch.tensor([0.5, 0.25 + value / 2, value, value])
    torch.testing.assert_close(result[0, 0, 0], expected)


def test_bad_input_is_refused():
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(PIDiffError, match="'pink'"):
        remove_background(image, torch.ones(1, 1, 4, 4), colour="pink")
    with pytest.raises(PIDiffError, match=r"\(B 1 4 4\)"):
        remove_background(image, torch.ones(1, 1, 4, 5))


def test_hard_edges_are_softened_as_w_plus_adapter_does():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 5:] = 1.0
    soft = soften(mask)[0, 0, 4]
    assert soft[2] == 0.0
    assert soft[7] == pytest.approx(1.0, abs=1e-6)
    assert (soft.diff() >= 0).all()
    assert soft[4] == pytest.approx(5 / 16)  # OpenCV's 5 taps are 1, 4, 6, 4, 1


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (torch.tensor([[True, False]]), [1.0, 0.0]),
        (torch.tensor([[1, 0]], dtype=torch.uint8), [1.0, 0.0]),
        (torch.tensor([[-3.0, 7.0]]), [0.0, 1.0]),
        (torch.tensor([[0.25, 0.5]], dtype=torch.float64), [0.25, 0.5]),
        (torch.tensor([[0.25, 0.5]], dtype=torch.bfloat16), [0.25, 0.5]),
    ],
)
def test_masks_of_every_number_type_are_read(mask, expected):
    assert check_mask(mask).flatten().tolist() == expected
    assert check_mask(mask).dtype == torch.float32


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 0, 8), r"is empty: its shape is \(1, 0, 8\)"),
        (torch.zeros(0, 8, 8), "is empty"),
        (torch.full((1, 4, 4), torch.nan), "not finite"),
        (torch.full((1, 4, 4), -torch.inf), "not finite"),
        (torch.zeros(1, 4, 4, dtype=torch.complex64), "complex64"),
        (torch.zeros(4, 4).to_sparse(), "should hold numbers"),
    ],
)
def test_what_is_not_a_mask_is_refused(mask, message):
    with pytest.raises(PIDiffError, match=message):
        check_mask(mask)
