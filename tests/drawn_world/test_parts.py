"""Parts of the recipe that are kept: written and read, measured, and continued from."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("diffusers", reason="the training classes are the optional extra `train`")

from drawn_world.autoencoder import MiniAutoencoder
from drawn_world.data import World, rendered
from drawn_world.parts import keep_part, take_part, version_of
from drawn_world.train import autoencoder_stage
from pidiff_core.errors import PIDiffError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return rendered(World(seed=1, people=48, scenes=1), tmp_path_factory.mktemp("world"))


@pytest.fixture
def part(pictures, tmp_path):
    """An autoencoder that is its linear codec alone, kept in a folder."""
    torch.manual_seed(0)
    autoencoder = MiniAutoencoder().eval()
    autoencoder.cells.start_from(torch.cat([pictures.image_batch([index]) for index in range(48)]))
    keep_part("autoencoder", autoencoder, notes={"steps": "0"}, folder=tmp_path)
    return autoencoder, tmp_path


def test_a_part_is_taken_as_it_was_kept(part):
    autoencoder, folder = part
    taken = MiniAutoencoder().eval()
    before = version_of(taken)
    assert take_part("autoencoder", taken, folder=folder)
    assert version_of(taken) != before
    for name, value in autoencoder.state_dict().items():
        torch.testing.assert_close(taken.state_dict()[name], value, atol=2e-3, rtol=2e-3)  # fp16
    assert not take_part("base", taken, folder=folder)
    assert not take_part("autoencoder", taken, folder=None)


def test_a_part_of_other_networks_is_refused(part):
    with pytest.raises(PIDiffError, match="autoencoder, kept in"):
        take_part("autoencoder", torch.nn.Linear(2, 2), folder=part[1])


@pytest.mark.slow
def test_a_stage_starts_from_its_part(part, pictures, tmp_path):
    autoencoder, folder = part
    taken = autoencoder_stage(pictures, tmp_path / "stage", steps=0, parts=folder)
    assert torch.equal(taken.cells.paint.weight, autoencoder.cells.paint.weight.half().float())
    trained = autoencoder_stage(pictures, tmp_path / "stage", steps=1, parts=folder, batch_size=4, compiled=False)
    change = (trained.cells.paint.weight - autoencoder.cells.paint.weight).abs().max()
    assert 0 < change < 1e-2


def test_the_linear_codec_alone_is_measured(part, capsys):
    from benchmarks import parts

    parts.main(["--parts", str(part[1]), "--pictures", "6"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"autoencoder"}
    assert 18 < report["autoencoder"]["db"] < 23  # principal components of cells: 20.9 dB with 8 numbers
    assert 0.1 < report["autoencoder"]["gradient_energy"] < 0.6
