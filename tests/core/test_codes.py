"""Codes as files: our own come back bit by bit, other tools' are read, everything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.checkpoint import load_checkpoint, save_checkpoint
from pidiff_core.codes import load_codes, save_codes
from pidiff_core.errors import PIDiffError
from pidiff_core.wplus import WPlus, WPlusSpace

SPACE = WPlusSpace("test", 10, 8)
AVERAGE = torch.linspace(-1, 1, 80).reshape(10, 8)


def codes(batch=2):
    return torch.randn(batch, 10, 8, generator=torch.Generator().manual_seed(0))


def test_codes_come_back_bit_by_bit(tmp_path):
    wplus = WPlus(codes(), AVERAGE, SPACE, "two people", {"photos": [{"picture_sha256": "ab", "crop_size": 512}]})
    save_codes(tmp_path / "person.safetensors", wplus)
    again = load_codes(tmp_path / "person.safetensors", space=SPACE)
    assert torch.equal(again.codes, wplus.codes)
    assert torch.equal(again.latent_avg, AVERAGE)
    assert (again.space, again.source, again.origin) == (wplus.space, wplus.source, wplus.origin)


def saved(path, content):
    if path.suffix == ".npy":
        np.save(path, np.asarray(content))
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "batch"),
    [
        ("a.pt", codes(2), 2),
        ("a.pth", codes(1)[0], 1),
        ("a.pt", codes(1).double(), 1),
        ("a.pt", [codes(1), codes(1)], 2),
        ("a.pth", [codes(1)[0], codes(1)[0], codes(1)[0]], 3),
        ("a.npy", codes(2).numpy(), 2),
        ("a.npy", codes(1)[0].double().numpy(), 1),
        ("a.bin", codes(2), 2),
    ],
)
def test_other_tools_layouts_are_read(tmp_path, name, content, batch):
    wplus = load_codes(saved(tmp_path / name, content), space=SPACE, latent_avg=AVERAGE)
    torch.testing.assert_close(wplus.codes[0], codes(batch)[0], atol=1e-6, rtol=0)
    assert len(wplus) == batch
    assert wplus.source == name


def test_offsets_and_absolute_codes_are_told_apart_by_the_user(tmp_path):
    path = saved(tmp_path / "a.pt", codes())
    absolute = load_codes(path, space=SPACE, latent_avg=AVERAGE)
    offset = load_codes(path, space=SPACE, latent_avg=AVERAGE, are_offsets=True)
    torch.testing.assert_close(offset.codes - absolute.codes, AVERAGE.expand(2, -1, -1))


def test_bare_codes_need_a_space(tmp_path):
    with pytest.raises(PIDiffError, match="Connect the PIDiff model"):
        load_codes(saved(tmp_path / "a.pt", codes()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(1, 9, 8), r"\(B 10 8\)"),
        (torch.zeros(8), r"has \(8,\)"),
        ({"w_proj": codes()}, "dict with w_proj"),
        ([codes(), torch.zeros(1, 9, 8)], "different shapes"),
        ([], r"no W\+ codes but a list"),
        (codes() * float("nan"), "not finite"),
        ("text", r"no W\+ codes but a str"),
        (torch.zeros(2, 10, 8, dtype=torch.complex64), "no plain array of numbers"),
    ],
)
def test_what_is_no_codes_is_refused(tmp_path, content, message):
    with pytest.raises(PIDiffError, match=message):
        load_codes(saved(tmp_path / "a.pt", content), space=SPACE, latent_avg=AVERAGE)


def test_codes_of_another_space_are_refused(tmp_path):
    save_codes(tmp_path / "a.safetensors", WPlus(codes(), AVERAGE, SPACE))
    with pytest.raises(PIDiffError, match=r"belong to test .* model is of other"):
        load_codes(tmp_path / "a.safetensors", space=WPlusSpace("other", 10, 8))


def test_other_files_of_pidiff_are_refused(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"weight": torch.ones(1)}, {"kind": "adapter"})
    with pytest.raises(PIDiffError, match="it is 'adapter'"):
        load_codes(tmp_path / "a.safetensors")
    save_codes(tmp_path / "b.safetensors", WPlus(codes(), AVERAGE, SPACE))
    tensors, config = load_checkpoint(tmp_path / "b.safetensors")
    del config["space"]["num_styles"]
    save_checkpoint(tmp_path / "b.safetensors", tensors, config)
    with pytest.raises(PIDiffError, match="incomplete"):
        load_codes(tmp_path / "b.safetensors")


@pytest.mark.parametrize("number", [1, 2])
def test_real_codes_come_back_bit_by_bit(reference_dir, tmp_path, number):
    files = sorted((reference_dir / "wplus_codes").glob("*.pth"))
    space = WPlusSpace("ffhq-1024", 18)
    wplus = load_codes(files[number], space=space, latent_avg=torch.zeros(18, 512))
    assert torch.equal(wplus.codes, torch.load(files[number], map_location="cpu", weights_only=True))
    save_codes(tmp_path / "a.safetensors", wplus)
    assert torch.equal(load_codes(tmp_path / "a.safetensors", space=space).codes, wplus.codes)
