"""Maps to look at."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.overlay import heat, overlay, resize_maps
from pidiff_core.errors import PIDiffError


def test_maps_are_stretched_each_on_its_own():
    maps = torch.stack([torch.linspace(0.2, 0.4, 16), torch.linspace(0.0, 1.0, 16)]).reshape(2, 4, 4)
    stretched = resize_maps(maps, (4, 4), stretch=True)
    torch.testing.assert_close(stretched[0], stretched[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(resize_maps(maps, (4, 4), stretch=False), maps)
    assert (
        resize_maps(torch.full((1, 4, 4), 0.3), (9, 7), stretch=True).abs().max() == 0.0
    )  # flat, not noise made large


def test_heat_grows_brighter_with_the_map():
    grey = heat(torch.linspace(0, 1, 100).reshape(1, 1, 100)) @ torch.tensor([0.3, 0.59, 0.11])
    assert (grey.diff() > 0).all()


def test_an_overlay_leaves_the_picture_where_the_map_is_zero():
    picture = torch.rand(1, 8, 8, 3)
    maps = torch.zeros(1, 8, 8)
    maps[:, :4] = 1.0
    laid = overlay(maps, picture)
    assert torch.equal(laid[:, 4:], picture[:, 4:])
    assert not torch.equal(laid[:, :4], picture[:, :4])


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 8, 16, 3)])
def test_exception_a_picture_of_another_latent(shape):
    with pytest.raises(PIDiffError, match="decoded from this latent"):
        overlay(torch.zeros(1, 8, 8), torch.zeros(shape))
