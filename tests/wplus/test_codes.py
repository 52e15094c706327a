"""Codes as files: our own come back bit by bit, other tools' are read, everything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.files.container import read_container, write_container
from pidiff_core.wplus.code_files import load_codes, save_codes, save_new_codes
from pidiff_core.wplus.codes import WPlus, WPlusSpace

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
        ([], r"does not hold W\+ codes but a list"),
        (codes() * float("nan"), "not finite"),
        ("text", r"does not hold W\+ codes but a str"),
        (torch.zeros(2, 10, 8, dtype=torch.complex64), "not a plain array of numbers"),
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
    write_container(tmp_path / "a.safetensors", {"weight": torch.ones(1)}, kind="adapter", config={})
    with pytest.raises(PIDiffError, match=r"holds an identity adapter, but W\+ codes was expected here"):
        load_codes(tmp_path / "a.safetensors")
    save_codes(tmp_path / "b.safetensors", WPlus(codes(), AVERAGE, SPACE))
    tensors, config = read_container(tmp_path / "b.safetensors", kind="codes")
    del config["space"]["num_styles"]
    write_container(tmp_path / "b.safetensors", tensors, kind="codes", config=config)
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


@pytest.mark.parametrize("key", ["w", "dlatents", "latent"])
def test_what_projectors_write_is_read(tmp_path, key):
    """StyleGAN2-ADA and 3 write `projected_w.npz`, others a dictionary, or one for each picture."""
    np.savez(tmp_path / "projected_w.npz", **{key: codes(2).numpy()})
    torch.save({key: codes(2), "img": "anna.jpg"}, tmp_path / "projection.pt")
    pictures = {f"{i}.jpg": {"img": torch.zeros(3, 4, 4), key: codes(2)[i], "noise": []} for i in range(2)}
    torch.save(pictures, tmp_path / "projections.pt")
    torch.save(torch.nn.Parameter(codes(2)[:, None]), tmp_path / "pivot.pt")
    for name in ("projected_w.npz", "projection.pt", "projections.pt", "pivot.pt"):
        assert torch.equal(load_codes(tmp_path / name, space=SPACE, latent_avg=AVERAGE).codes, codes(2)), name


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 8)])
def test_a_code_of_w_is_the_same_in_every_style(tmp_path, shape):
    w = codes(1)[:, :1].reshape(shape)
    wplus = load_codes(saved(tmp_path / "a.pt", w), space=SPACE, latent_avg=AVERAGE)
    assert torch.equal(wplus.codes, w.reshape(1, 1, 8).expand(1, 10, 8))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez(path, other=np.ones((10, 8))), r"dict with other"),
        (lambda path: np.savez(path, w=np.array(["a"])), r"w in .*a\.npz is not a \.npy array"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), r"a\.npz is damaged"),
        (lambda path: np.savez_compressed(path, w=np.zeros((25_000, 10, 80))), "unpacks to more than"),
    ],
    ids=["other name", "text", "damaged", "bomb"],
)
def test_archives_without_codes_are_refused(tmp_path, write, message):
    write(tmp_path / "a.npz")
    with pytest.raises(PIDiffError, match=message):
        load_codes(tmp_path / "a.npz", space=SPACE, latent_avg=AVERAGE)


def test_names_are_given_once_to_each_file(tmp_path):
    paths = [save_new_codes(tmp_path / "new", "anna", WPlus(codes() + i, AVERAGE, SPACE), first=4) for i in range(3)]
    assert [path.name for path in paths] == [f"anna_0000{number}_.safetensors" for number in (4, 5, 6)]
    for i, path in enumerate(paths):
        assert torch.equal(load_codes(path).codes, codes() + i)


def test_marks_of_photos_and_an_unknown_average_come_back(tmp_path):
    wplus = WPlus(codes(), AVERAGE, SPACE, "s", {}, (True, False), average_known=False)
    save_codes(tmp_path / "a.safetensors", wplus)
    again = load_codes(tmp_path / "a.safetensors")
    assert again.present == (True, False)
    assert not again.average_known
    assert again.origin == {}


def test_text_in_a_file_is_made_printable(tmp_path):
    tensors = {"codes": codes(), "latent_avg": AVERAGE}
    space = {"name": "half \ud83d", "num_styles": 10, "width": 8}
    config = {"space": space, "source": "\ud800\0", "origin": {"photos": 12, "present": "many"}}
    write_container(tmp_path / "a.safetensors", tensors, kind="codes", config=config)
    wplus = load_codes(tmp_path / "a.safetensors")
    f"{wplus.source} {wplus.space}".encode()
    assert wplus.present == (True, True)
    assert wplus.photos == []
