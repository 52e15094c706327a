"""Broken and hostile codes and directions: PIDiffLoadCodes and StyleEdit answer each with a sentence."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("comfy")
SPACE = {"name": "test", "num_styles": 8, "width": 6}
COMPONENTS = {"mean": torch.zeros(1, 6), "comp": torch.ones(3, 1, 6), "std": torch.ones(3)}


class RunsCode:
    """A pickle of this makes the folder that it names."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(content):
    return lambda path: torch.save(content, path)


def array(content):
    def write(path):
        with path.open("wb") as file:
            np.save(file, content)

    return write


def own(codes=None, **changes):
    """A file of PIDiffSaveCodes, changed."""
    config = {"kind": "codes", "space": SPACE, "source": "someone", "origin": {}} | changes
    tensors = {"codes": torch.zeros(1, 8, 6) if codes is None else codes, "latent_avg": torch.zeros(8, 6)}
    return lambda path: save_file(tensors, path, metadata={"pidiff": json.dumps(config)})


def cut(path):
    torch.save(torch.ones(100, 8, 6), path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    pack.load("nodes.host.folders").register()
    wplus = pack.load("pidiff_core.wplus.codes")
    space = wplus.WPlusSpace(**SPACE)
    (comfy.base / "input").mkdir(exist_ok=True)
    return SimpleNamespace(
        load=pack.load("nodes.codes").LoadCodes,
        edit=pack.load("nodes.edit").StyleEdit,
        model=pack.load("pidiff_core.model").PIDiffModel(space, torch.zeros(8, 6), source="tiny"),
        wplus=wplus.WPlus(torch.ones(1, 8, 6), torch.zeros(8, 6), space, "someone"),
        error=pack.load("pidiff_core.errors").PIDiffError,
    )


@pytest.fixture
def place(comfy):
    """Writes a file into a folder of ComfyUI, and takes it away afterwards."""
    written = []

    def write(folder, name, make):
        path = comfy.base / folder / name
        written.append(path)
        make(path)

    yield write
    for path in written:
        path.unlink()
        assert not (path.parent / "executed").exists()


HOSTILE = {
    "cut": (cut, "damaged or cut short"),
    "runs code": (lambda path: pickled(RunsCode(path.parent / "executed"))(path), "Nothing in it was executed"),
    "bomb": (pickled(torch.zeros(1).expand(1 << 20, 1 << 20)), "unpack to more than any checkpoint"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html>"), "web page"),
    "pickle of nothing": (lambda path: path.write_bytes(b"\x80"), "damaged or cut short"),
    "a number": (pickled(torch.tensor(1.0)), r"should hold codes|should be of \(S, D\)"),
    "not numbers": (pickled([torch.zeros(8, 6), "text"]), "not hold W\\+ codes but a str|holds no directions"),
    "not finite": (pickled(torch.full((8, 6), torch.inf)), "not finite"),
    "too large": (array(np.full((8, 6), 1e300)), "not finite"),
    "complex": (array(np.ones((8, 6), dtype=np.complex64)), "its type is complex64"),
    "dates": (array(np.zeros((8, 6), dtype="datetime64[s]")), "its type is datetime64"),
    "wrong shape": (array(np.ones((9, 6))), r"\(B 8 6\)|need \(8, 6\)"),
    "empty batch": (array(np.ones((0, 8, 6), dtype=np.float32)), r"empty batch|should be of \(S, D\)"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_codes_are_a_sentence(nodes, place, kind):
    make, message = HOSTILE[kind]
    place("input", "odd.pt", make)
    with pytest.raises(nodes.error, match=message) as raised:
        nodes.load.execute("odd.pt", pidiff_model=nodes.model)
    assert "odd.pt" in str(raised.value)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_directions_are_a_sentence(nodes, place, kind):
    make, message = HOSTILE[kind]
    place("models/pidiff", "odd.pt", make)
    with pytest.raises(nodes.error, match=message) as raised:
        nodes.edit.execute(nodes.wplus, nodes.model, "odd.pt", 1.0, True, True, True)
    assert "odd.pt" in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (own(space={**SPACE, "num_styles": "many"}), r"odd\.safetensors is incomplete: .*many styles"),
        (own(space={**SPACE, "num_styles": 8.5}), r"odd\.safetensors is incomplete: .*8\.5 styles"),
        (own(space={**SPACE, "name": ["test"]}), r"odd\.safetensors is incomplete"),
        (own(space=[]), r"odd\.safetensors is incomplete"),
        (own(origin=3), r"odd\.safetensors is incomplete"),
        (own(torch.zeros(8, 6)), r"\(B 8 6\)"),
        (own(torch.full((1, 8, 6), torch.nan)), "not finite"),
    ],
)
def test_files_of_our_own_that_were_tampered_with_are_a_sentence(nodes, place, make, message):
    place("input", "odd.safetensors", make)
    with pytest.raises(nodes.error, match=message):
        nodes.load.execute("odd.safetensors")


@pytest.mark.parametrize("part", ["7", "\N{SUPERSCRIPT TWO}", "-1", "9" * 5000, "name"])
def test_a_direction_that_the_file_does_not_have_is_a_sentence(nodes, place, part):
    place("models/pidiff", "odd.pt", pickled(COMPONENTS))
    with pytest.raises(nodes.error, match="has no direction"):
        nodes.edit.execute(nodes.wplus, nodes.model, f"odd.pt:{part}", 1.0, True, True, True)


@pytest.mark.parametrize(
    "change",
    [{"std": torch.ones(2)}, {"mean": 1}, {"comp": torch.ones(3, 6)}, {"comp": torch.ones(3, 1, 6) * torch.nan}],
)
def test_components_that_do_not_fit_are_a_sentence(nodes, place, change):
    place("models/pidiff", "odd.pt", pickled(COMPONENTS | change))
    with pytest.raises(nodes.error, match=r"odd\.pt"):
        nodes.edit.execute(nodes.wplus, nodes.model, "odd.pt:1", 1.0, True, True, True)
