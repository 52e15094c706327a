"""Tuning a person from a folder of photos with one of the trainer's bases, and the low-rank part alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from pidiff_core.adapter.refinement import LAYERS, low_rank_parameters, refined, refinement_of, with_low_rank
from pidiff_core.errors import PIDiffError
from pidiff_core.mini.bundle import load_identity
from pidiff_core.training.bases.load import load_base
from pidiff_core.training.cli import main
from pidiff_core.training.person import PersonOptions, PersonTuning, spread_of
from pidiff_core.training.person_files import run_person
from pidiff_core.wplus.code_files import load_codes
from pidiff_core.wplus.codes import WPlus
from tests.training.data.rendered_people import draw_people


@pytest.fixture(scope="module")
def model():
    return load_identity()


@pytest.fixture(scope="module")
def base(device):
    return load_base("mini", device=device)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("person")
    draw_people(folder, people=1, each=2, seed=2_000_031)
    return folder


@pytest.fixture
def wplus(model):
    offsets = torch.randn(1, 10, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    return WPlus.from_offsets(offsets, model.latent_avg, space=model.space, source="someone")


def test_the_low_rank_part_starts_at_zero_and_leaves_the_adapter_alone(model, wplus):
    trainable = with_low_rank(model.adapter, 3, seed=0)
    site = model.adapter.config.sites[0]
    for name in LAYERS:
        own, copy = (getattr(adapter.branch(site.name), name) for adapter in (model.adapter, trainable))
        assert torch.equal(own.weight, copy.weight)
        assert not own.weight.requires_grad
    parameters = low_rank_parameters(trainable)
    assert len(parameters) == 2 * len(LAYERS) * len(model.adapter.config.sites)
    assert {min(parameter.shape) for parameter in parameters} == {3}
    assert torch.equal(trainable.tokens(wplus), model.adapter.tokens(wplus))


def test_refined_adds_up_times_down(model, wplus):
    trainable = with_low_rank(model.adapter, 2, seed=0)
    with torch.no_grad():
        for parameter in low_rank_parameters(trainable):
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    tuned = replace(wplus, refinement=refinement_of(trainable, model.adapter))
    result = refined(model.adapter, tuned)
    for site in model.adapter.config.sites:
        for name in LAYERS:
            expected = getattr(trainable.branch(site.name), name).weight
            torch.testing.assert_close(getattr(result.branch(site.name), name).weight, expected)
    assert refined(model.adapter, wplus) is model.adapter


def test_the_codes_never_leave_their_bounds(model, wplus):
    tuning = PersonTuning(model.adapter, wplus, spread=spread_of(model), options=PersonOptions(code_range=0.5))
    with torch.no_grad():
        tuning.move.fill_(100.0)
    moved = tuning.result().codes - wplus.codes
    torch.testing.assert_close(moved[0], 0.5 * model.adapter.projection.code_std, atol=1e-5, rtol=1e-4)


def test_the_spread_of_a_space_whose_adapter_does_not_know_it(model):
    adapter = load_identity().adapter
    adapter.projection.code_std.fill_(1.0)
    features = model.generator.config.z_dim
    with torch.no_grad():
        z = torch.randn(4096, features, generator=torch.Generator().manual_seed(0))
        expected = model.generator.mapping(z).std(dim=0)
    found = spread_of(replace(model, adapter=adapter))
    assert found.shape == (10, 128)
    torch.testing.assert_close(found[3], expected)
    with pytest.raises(PIDiffError, match="spread of the codes of this space is unknown"):
        spread_of(replace(model, adapter=adapter, generator=None))


@pytest.mark.slow
def test_a_folder_of_photos_becomes_one_small_file(base, photos, tmp_path, capsys):
    options = PersonOptions(photos=str(photos), out=str(tmp_path / "anna.safetensors"), detector="model", steps=8)
    person = run_person(options, base=base)
    assert person.loss_after < person.loss_before
    loaded = load_codes(tmp_path / "anna.safetensors")
    assert torch.equal(loaded.codes, person.wplus.codes)
    assert loaded.refinement.adapter == person.wplus.refinement.adapter
    assert (tmp_path / "anna.safetensors").stat().st_size < 200_000
    assert "2 photos, loss on the face" in capsys.readouterr().out
    again = run_person(options, base=base)
    torch.testing.assert_close(again.wplus.codes, person.wplus.codes)


def test_photos_that_cannot_be_used(base, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "empty.png").touch()
    options = PersonOptions(photos=str(folder), out=str(tmp_path / "out.safetensors"), detector="model")
    with pytest.raises(PIDiffError, match=r"empty\.png: .*empty.*Remove the photo"):
        run_person(options, base=base)
    for number in range(20):
        shutil.copy(folder / "person_000/0000.png", folder / f"{number}.png")
    with pytest.raises(PIDiffError, match="23 photos; a person is tuned from 1 to 20"):
        run_person(options, base=base)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.slow
def test_the_preset_of_the_command_line(photos, tmp_path, capsys):
    out = tmp_path / "anna.safetensors"
    command = ["train", "--preset", "person", "--base.path", "mini", "--person.detector", "model"]
    command += ["--person.photos", str(photos), "--person.out", str(out), "--person.steps", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert "2 photos" in capsys.readouterr().out
    assert not out.exists()
    assert main(command) == 0
    assert load_codes(out).refinement is not None
    assert main([*command[:-4], "--person.photos", str(tmp_path / "gone")]) == 2
    assert "folder of photos" in capsys.readouterr().err


def test_options_out_of_range():
    with pytest.raises(PIDiffError, match=r"person\.steps is 0"):
        PersonOptions(steps=0)
