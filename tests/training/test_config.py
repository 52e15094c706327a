"""The configuration: defaults, presets, files, the command line; typos and wrong types are named before work starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("accelerate", reason="training is the optional extra `train`")

from pidiff_core.errors import PIDiffError
from pidiff_core.training.cli import main
from pidiff_core.training.config import Config
from pidiff_core.training.config_file import dump, load_config, preset_names
from pidiff_core.training.data.buckets import bucket_sizes
from pidiff_core.training.folder_lock import folder_lock
from pidiff_core.training.loop import LoopConfig
from pidiff_core.training.optimisers import OPTIMISERS, SHARDABLE
from pidiff_core.training.trainer import check, check_data


def test_later_layers_win(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('preset = "mini"\n[localise]\nsteps = 7\nbatch_size = 4\n', encoding="utf-8")
    config = load_config(file=file, overrides=[("localise.batch_size", "6"), ("optimiser.betas", "0.8,0.9")])
    assert (config.base.path, config.localise.steps, config.localise.batch_size) == ("mini", 7, 6)
    assert config.localise.learning_rate == 2e-3, "the preset's"
    assert config.optimiser.betas == (0.8, 0.9)
    assert load_config(preset="sd15", file=file).extract.steps == 20000, "the command line's preset"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole_and_comes_back_from_its_dump(name, tmp_path):
    config = load_config(preset=name)
    file = tmp_path / "dumped.toml"
    file.write_text(dump(config), encoding="utf-8")
    assert load_config(file=file) == config
    assert {"sd15", "sdxl", "sdxl-12gb", "mini"} <= set(preset_names())


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("localise.step", "5", r"'localise\.step' is not a setting.*Did you mean 'localise\.steps'"),
        ("localize.steps", "5", "'localize' is not a table.*Did you mean 'localise'"),
        ("run.min_snr_gamma", "5", r"Did you mean 'strategy\.min_snr_gamma'"),
        ("steps", "5", r"expected table\.key"),
        ("localise.steps", "many", r"'localise\.steps' is 'many': expected a whole number"),
        ("localise.steps", "1.5", "expected a whole number"),
        ("run.gradient_checkpointing", "1", "expected true or false"),
        ("optimiser.betas", "0.9", "has 1 values: expected 2"),
        ("optimiser.name", "adam", "expected one of adamw"),
        ("run.precision", "fp16", "expected one of auto, bf16, fp32"),
        ("run.sharding", "zero", "expected one of none, fsdp2"),
        ("run.workers", "-1", r"run\.workers is -1: expected at least 0"),
        ("run.workers", "auto", "expected a whole number"),
        ("extract.batch_size", "0", "expected at least 1"),
        ("localise.accumulation", "3", "cannot be split into 3"),
        ("strategy.drop_text", "2", "between 0 and 1"),
    ],
)
def test_exception_for_what_is_wrong(key, value, match):
    with pytest.raises(PIDiffError, match=match):
        load_config(overrides=[(key, value)])


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ([("localise.accumulation", "2")], r"localise\.accumulation is 2: CUDA graphs cannot add up"),
        ([("extract.accumulation", "2")], r"extract\.accumulation is 2"),
        ([("run.gradient_checkpointing", "true")], "cannot compute a part again"),
        ([("strategy.extra_fraction", "0.3")], r"0\.3 of a batch of 8 is 2\.4 samples.*the same number in every step"),
    ],
)
def test_exception_for_what_cuda_graphs_cannot_do(overrides, match):
    """On every machine, because the settings contradict each other whether there is a GPU or not."""
    with pytest.raises(PIDiffError, match=match):
        load_config(overrides=[("run.graphed", "true"), *overrides])
    assert not load_config(overrides=overrides).loop("localise").graphed
    assert load_config(overrides=[("run.graphed", "true"), ("run.workers", "3")]).loop("extract").workers == 3


@pytest.mark.parametrize("name", sorted(set(OPTIMISERS) - set(SHARDABLE)))
def test_exception_for_an_optimiser_that_cannot_be_sharded(name):
    with pytest.raises(PIDiffError, match=f"'{name}' and run.sharding is fsdp2.*Choose one of adamw"):
        load_config(overrides=[("optimiser.name", name), ("run.sharding", "fsdp2")])
    assert load_config(overrides=[("optimiser.name", name)]).optimiser.name == name


def test_exception_for_cuda_graphs_of_several_sizes():
    config = load_config(overrides=[("run.graphed", "true")])
    photos = SimpleNamespace(buckets={(512, 512): 7, (448, 576): 2}, resolution=512)
    with pytest.raises(PIDiffError, match=r"2 sizes \(576x448, 512x512\).*--prepare\.bucket_step_px 512"):
        check_data(config, photos)
    check_data(Config(), photos)
    assert bucket_sizes(512, step_px=512) == [(512, 512)], "what the message says to do"


def test_settings_that_a_machine_cannot_follow_are_named(monkeypatch):
    config = LoopConfig(steps=1, graphed=True, workers=2, sharding="fsdp2")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    one_on_cpu = config.notes(cpu, processes=1)
    assert [note.split(" = ")[0] for note in one_on_cpu] == ["graphed", "sharding"]
    assert "no CUDA GPU" in one_on_cpu[0]
    (note,) = config.notes(gpu, processes=2)
    assert "there are 2 processes" in note
    assert config.uses_graphs(gpu, processes=1)
    monkeypatch.setattr("pidiff_core.training.loop.get_all_start_methods", lambda: ["spawn"])
    assert config.uses_workers() == 0
    assert "workers = 2 is not followed" in config.notes(gpu, processes=2)[1]
    assert LoopConfig(steps=1).notes(cpu, processes=1) == []


def test_exception_for_files_that_are_not_configurations(tmp_path):
    (tmp_path / "a.toml").write_text("[localise\n")
    (tmp_path / "b.toml").write_bytes("# Ä\n".encode("utf-16"))
    (tmp_path / "c.toml").write_text("localise = 5\n")
    for name, match in (("a", "not valid TOML"), ("b", "not UTF-8"), ("c", "is a table"), ("d", "Cannot read")):
        with pytest.raises(PIDiffError, match=match):
            load_config(file=tmp_path / f"{name}.toml")
    with pytest.raises(PIDiffError, match="The preset is 'sd16': expected one of"):
        load_config(preset="sd16")


def test_exception_before_any_file_is_read():
    with pytest.raises(PIDiffError, match="No base model was given"):
        check(Config())
    config = load_config(overrides=[("base.path", "mini"), ("localise.batch_size", "6")])
    with pytest.raises(PIDiffError, match=r"extract\.batch_size is 8.*multiple of 3"):
        check(config, processes=3)
    with pytest.raises(PIDiffError, match="The tracker is 'mlflow'"):
        check(load_config(overrides=[("base.path", "mini"), ("run.trackers", "mlflow")]))


def test_the_command_line(capsys, tmp_path):
    assert main(["train", "--preset", "mini", "--localise.steps=9", "--set", "run.seed=4", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "steps = 9" in printed
    assert "seed = 4" in printed
    for arguments, match in (
        (["train", "--localise.setps", "5"], "Did you mean 'localise.steps'"),
        (["train", "--localise.steps"], "has no value"),
        (["train", "--set", "localise.steps"], "has no value"),
        (["train", "photos"], "was not expected"),
        (["export", "--run.folder", str(tmp_path)], "has not written an adapter yet"),
        (["train", "--base.path", str(tmp_path / "none.safetensors")], "Cannot read"),
        (["train", "--base.path", "mini", "--data.prepared", str(tmp_path)], "holds no prepared photos"),
    ):
        arguments += ["--run.folder", str(tmp_path / "run")] if arguments[0] == "train" else []
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("pidiff: ")
        assert match in error
    assert not (tmp_path / "run" / "config.toml").exists()


def test_two_runs_in_one_folder(capsys, tmp_path):
    with folder_lock(tmp_path, what="train"):
        assert main(["train", "--base.path", "mini", "--run.folder", str(tmp_path)]) == 2
    assert f"Another run works in {tmp_path} (pidiff train, process" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".pidiff.lock"]
