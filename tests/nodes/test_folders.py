"""Look-ups of files: one rule for links, names of other systems, listings of full folders, prefixes of saved codes."""

from __future__ import annotations

import os
import time
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfy")
SPACE = {"name": "test", "num_styles": 8, "width": 6}
posix = pytest.mark.skipif(os.name != "posix", reason="Windows makes links for administrators only")


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    folders = pack.load("nodes.host.folders")
    folders.register()
    wplus = pack.load("pidiff_core.wplus.codes")
    space = wplus.WPlusSpace(**SPACE)
    for name in ("input", "output"):
        (comfy.base / name).mkdir(exist_ok=True)
    return SimpleNamespace(
        codes=pack.load("nodes.codes"),
        edit=pack.load("nodes.edit").StyleEdit,
        load=pack.load("nodes.load").LoadPIDiff,
        encode=pack.load("nodes.encode").EncodeIdentity,
        folders=folders,
        model=pack.load("pidiff_core.model").PIDiffModel(space, torch.zeros(8, 6), source="tiny"),
        wplus=wplus.WPlus(torch.ones(1, 8, 6), torch.zeros(8, 6), space, "someone"),
        error=pack.load("pidiff_core.errors").PIDiffError,
    )


@pytest.fixture
def models(comfy):
    """models/pidiff, emptied of what a test puts there."""
    folder = comfy.base / "models" / "pidiff"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def edited(nodes, direction):
    return nodes.edit.execute(nodes.wplus, nodes.model, direction, 1.0, True, True, True).result[0].codes


def saved(nodes, prefix):
    entry = nodes.codes.SaveCodes.execute(nodes.wplus, prefix).ui["pidiff_codes"][0]
    return f"{entry['subfolder']}/{entry['filename']} [output]".lstrip("/")


def rewritten(path, content):
    """Another content of the same size at another time."""
    np.save(path, content)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


@posix
def test_links_out_of_the_folders_are_refused_on_every_look_up(nodes, models, comfy, tmp_path):
    np.save(tmp_path / "secret.npy", np.ones((8, 6), dtype=np.float32))
    (tmp_path / "secret.csv").write_text("the secret line\n")
    for name in ("secret.npy", "secret.csv"):
        (models / f"link_{name}").symlink_to(tmp_path / name)
        with pytest.raises(nodes.error, match="is outside the folder"):
            edited(nodes, f"link_{name}")
        assert "is outside the folder" in nodes.load.validate_inputs(f"link_{name}", "none")
        assert "is outside the folder" in nodes.load.validate_inputs("none", f"link_{name}")
    (comfy.base / "input" / "link.npy").symlink_to(tmp_path / "secret.npy")
    (comfy.base / "output" / "link").symlink_to(tmp_path)
    try:
        for name in ("link.npy", "../models", str(tmp_path / "secret.npy"), "link/secret.npy [output]"):
            assert "is outside the folder" in nodes.codes.LoadCodes.validate_inputs(name)
        with pytest.raises(nodes.error, match=r"outside the .*folder"):  # newer hosts refuse it themselves
            saved(nodes, "link/person")
        assert not list(tmp_path.glob("person*"))
    finally:
        (comfy.base / "input" / "link.npy").unlink()
        (comfy.base / "output" / "link").unlink()


@posix
def test_a_link_within_the_folders_is_followed(nodes, models):
    np.save(models / "real.npy", np.ones((8, 6), dtype=np.float32))
    (models / "other.npy").symlink_to(models / "real.npy")
    assert torch.equal(edited(nodes, "other.npy"), torch.full((1, 8, 6), 2.0))


@posix
def test_a_table_does_not_follow_its_components_out(nodes, models, tmp_path):
    torch.save({"mean": torch.zeros(1, 6), "comp": torch.ones(3, 1, 6), "std": torch.ones(3)}, tmp_path / "pca.pt")
    (models / "table.csv").write_text("smile\t1\t0\t8\t2\n")
    (models / "ffhq_pca.pt").symlink_to(tmp_path / "pca.pt")
    with pytest.raises(nodes.error, match="is a link to another folder"):
        edited(nodes, "table.csv:smile")


def test_names_of_other_systems_are_found(nodes, models):
    decomposed = unicodedata.normalize("NFD", "Zoë")
    (models / "faces").mkdir()
    np.save(models / "faces" / "age.npy", np.ones((8, 6), dtype=np.float32))
    np.save(models / f"{decomposed}.npy", np.ones((8, 6), dtype=np.float32))
    for name in ("faces\\age.npy", "faces/age.npy", "age.npy", "Zoë.npy", f"{decomposed}.npy"):
        assert torch.equal(edited(nodes, name), torch.full((1, 8, 6), 2.0)), name
    assert nodes.load.validate_inputs("faces\\age.npy", "none") is True
    name = saved(nodes, f"systems\\{decomposed}")
    assert name == f"systems/{decomposed}_00001_.safetensors [output]"
    for other in (name.replace("/", "\\"), unicodedata.normalize("NFC", name)):
        assert torch.equal(nodes.codes.LoadCodes.execute(other).result[0].codes, nodes.wplus.codes)
    for pattern in ("systems\\", "systems/Zoë*", "systems\\Zoë*", f"systems/{decomposed}*", "systems"):
        assert nodes.codes.ListCodes.execute(pattern).result[1] == name, pattern


@pytest.mark.skipif(os.name == "nt", reason="every name is Unicode there")
def test_names_that_are_not_utf8_are_not_offered_and_work(nodes, comfy):
    raw = os.fsdecode(b"Stra\xdfe.safetensors")
    plain = nodes.folders.input_file(saved(nodes, "raw"))
    plain.replace(comfy.base / "input" / raw)
    try:
        assert raw not in nodes.folders.list_input_files((".safetensors",))
        codes = nodes.codes.LoadCodes.execute(raw).result[0]
        codes.source.encode()
    finally:
        (comfy.base / "input" / raw).unlink()


@pytest.mark.parametrize("name", ["half \ud83d", "a\0b", "n" * 300, "../../etc/passwd", "C:\\x", ""])
def test_odd_names_are_sentences_that_can_be_printed(nodes, name):
    said = [
        nodes.codes.LoadCodes.validate_inputs(name),
        nodes.load.validate_inputs(name, "none"),
        nodes.load.validate_inputs("none", name),
    ]
    for act in (lambda: edited(nodes, name or "-"), lambda: nodes.codes.LoadCodes.execute(name)):
        with pytest.raises(nodes.error) as caught:
            act()
        said.append(str(caught.value))
    for sentence in said:
        sentence.encode("utf-8")
        assert "\0" not in sentence
        assert len(sentence) < 1500
    assert isinstance(nodes.codes.ListCodes.execute(f"x{name}").result[0], str)


@pytest.mark.parametrize("prefix", ["half \ud83d", "a\0b", "n" * 300, "../out", "a/../../out"])
def test_prefixes_that_no_file_can_have_are_sentences(nodes, prefix):
    with pytest.raises(nodes.error, match=r"Codes cannot be saved as|Cannot write") as caught:
        saved(nodes, prefix)
    str(caught.value).encode()


@pytest.mark.parametrize("prefix", ["people/anna/", "people/anna", "people\\anna", " people/anna "])
def test_one_prefix_in_every_spelling_and_nothing_is_overwritten(nodes, prefix):
    names = [saved(nodes, prefix) for _ in range(3)]
    assert len(set(names)) == 3
    assert all(name.startswith("people/anna_0") for name in names)


def test_a_full_folder_is_read_once(nodes, comfy, monkeypatch):
    full = comfy.base / "output" / "full"
    for day in range(20):
        (full / f"day {day}").mkdir(parents=True)
        for number in range(500):
            (full / f"day {day}" / f"ComfyUI_{number}.png").touch()
        os.utime(full / f"day {day}", (0, 0))
    os.utime(full, (0, 0))
    before = nodes.folders.list_input_files((".safetensors",))
    scans = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: scans.append(folder) or scandir(folder))
    began = time.perf_counter()
    assert nodes.folders.list_input_files((".safetensors",)) == before
    assert time.perf_counter() - began < 0.2
    assert not [folder for folder in scans if "full" in str(folder)]
    name = saved(nodes, "full/day 7/anna")
    assert set(nodes.folders.list_input_files((".safetensors",))) == {*before, name}
    nodes.folders.input_file(name).unlink()
    assert nodes.folders.list_input_files((".safetensors",)) == before


def test_leftovers_of_a_killed_server_go_when_the_folder_is_listed(nodes, comfy, pack):
    machine = pack.load("pidiff_core.files.whole_files")._machine()
    folder = comfy.base / "output" / "killed"
    folder.mkdir()
    dead, alive = (folder / f".pidiff-{machine}-{process}-{'0' * 12}.tmp" for process in (2**31 - 1, os.getpid()))
    dead.touch()
    alive.touch()
    nodes.folders.list_input_files((".safetensors",))
    assert alive.exists()
    assert dead.exists() == (os.name != "posix")
    alive.unlink()


def test_a_replaced_direction_is_noticed(nodes, models):
    np.save(models / "mine.npy", np.ones((8, 6), dtype=np.float32))
    (models / "table.csv").write_text("smile\t1\t0\t8\t2\n")
    torch.save({"mean": torch.zeros(1, 6), "comp": torch.ones(3, 1, 6), "std": torch.ones(3)}, models / "ffhq_pca.pt")
    marks = {name: nodes.edit.fingerprint_inputs(name) for name in ("mine.npy", "mine.npy:0", "table.csv:smile", "")}
    linked = nodes.edit.fingerprint_inputs(None, amount=1.0)
    assert marks == {name: nodes.edit.fingerprint_inputs(name) for name in marks}
    assert linked == nodes.edit.fingerprint_inputs(None)
    rewritten(models / "mine.npy", np.zeros((8, 6), dtype=np.float32))
    os.utime(models / "ffhq_pca.pt", (1, 1))
    for name in ("mine.npy", "mine.npy:0", "table.csv:smile"):
        assert nodes.edit.fingerprint_inputs(name) != marks[name], name
    assert nodes.edit.fingerprint_inputs(None) != linked
    assert nodes.edit.fingerprint_inputs("") == marks[""]


def test_the_files_of_detectors_and_parsers_are_noticed(nodes, models, comfy):
    marks = [nodes.encode.fingerprint_inputs(detector="auto")]
    (models / "79999_iter.pth").write_bytes(b"1")
    marks.append(nodes.encode.fingerprint_inputs(detector="auto"))
    (models / "yunet_final.pth").write_bytes(b"2")
    marks.append(nodes.encode.fingerprint_inputs())
    (models / "yunet_final.pth").write_bytes(b"23")
    marks.append(nodes.encode.fingerprint_inputs())
    other = comfy.base / "models" / "facexlib"
    other.mkdir(exist_ok=True)  # another test may have made it
    (other / "parsing_bisenet.pth").write_bytes(b"3")
    marks.append(nodes.encode.fingerprint_inputs())
    assert len({str(mark) for mark in marks}) == len(marks)
    (other / "parsing_bisenet.pth").unlink()
    assert nodes.encode.fingerprint_inputs() == marks[-2]


def test_samples_are_offered_once_and_never_replace_a_file(pack, comfy):
    samples = pack.load("nodes.host.samples")
    target = comfy.base / "input" / "pidiff_sample_1.png"
    target.unlink(missing_ok=True)
    samples.offer_samples()
    assert target.read_bytes() == (samples.SAMPLES / target.name).read_bytes()
    target.write_bytes(b"the user's own")
    samples.offer_samples()
    assert target.read_bytes() == b"the user's own"
    target.unlink()
