"""Real W+ codes, as e4e made them from five portraits: read, average, walk, save, and come back bit by bit."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.files.foreign.wplus_adapter import SPACE
from pidiff_core.wplus.average import interpolate, join_codes, mean_code
from pidiff_core.wplus.code_files import load_codes, save_codes

AVERAGE = torch.linspace(-0.5, 0.5, 18 * 512).reshape(18, 512)  # the real one comes with the encoder's weights
NAMES = [f"{number}.pth" for number in range(1, 6)]


@pytest.fixture
def folder(reference_dir):
    folder = reference_dir / "wplus_codes"
    assert sorted(path.name for path in folder.glob("*.pth")) == NAMES
    return folder


def read(path):
    return load_codes(path, space=SPACE, latent_avg=AVERAGE)


def saved_and_read(path, wplus):
    """Without a space or an average of its own: the file brings both."""
    save_codes(path, wplus)
    again = load_codes(path)
    assert torch.equal(again.latent_avg, wplus.latent_avg)
    assert (again.space, again.source) == (wplus.space, wplus.source)
    return again


@pytest.mark.parametrize("name", NAMES)
def test_a_code_is_read_and_comes_back_bit_by_bit(folder, tmp_path, name):
    published = torch.load(folder / name, map_location="cpu", weights_only=True)
    wplus = read(folder / name)
    assert published.shape == (1, 18, 512)
    assert torch.equal(wplus.codes, published)
    assert torch.equal(saved_and_read(tmp_path / "again.safetensors", wplus).codes, published)


def test_their_mean_comes_back_bit_by_bit(folder, tmp_path):
    everybody = join_codes([read(folder / name) for name in NAMES])
    stacked = torch.cat([torch.load(folder / name, map_location="cpu", weights_only=True) for name in NAMES])
    assert torch.equal(everybody.codes, stacked)
    mean = mean_code(everybody)
    torch.testing.assert_close(mean.codes, stacked.double().mean(dim=0, keepdim=True).float(), atol=1e-6, rtol=1e-6)
    assert torch.equal(saved_and_read(tmp_path / "mean.safetensors", mean).codes, mean.codes)
    assert torch.equal(saved_and_read(tmp_path / "everybody.safetensors", everybody).codes, stacked)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 4)])
def test_a_walk_between_two_comes_back_bit_by_bit(folder, tmp_path, first, second):
    ends = [read(folder / NAMES[number]) for number in (first, second)]
    walk = interpolate(*ends, steps=5)
    assert torch.equal(walk.codes[:1], ends[0].codes)
    assert torch.equal(walk.codes[-1:], ends[1].codes)
    middle = (ends[0].codes.double() + ends[1].codes.double()) / 2
    torch.testing.assert_close(walk.codes[2:3], middle.float(), atol=1e-6, rtol=1e-6)
    again = saved_and_read(tmp_path / "walk.safetensors", walk)
    assert torch.equal(again.codes, walk.codes)
    assert torch.equal(again.select(-1).codes, ends[1].codes)
