"""The training loop: it learns, it resumes as if it had never stopped, it refuses what cannot go on."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

pytest.importorskip("accelerate", reason="training is the optional extra `train`")
pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from pidiff_core.errors import PIDiffError
from pidiff_core.training.loop import LoopConfig, fresh, train
from pidiff_core.training.stages import save_grid


def batch(step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x @ torch.tensor([[1.0], [-2.0], [0.5]])}


def loss(module, inputs):
    return {"loss": (module(inputs["x"]).float() - inputs["y"]).square().mean()}


def line() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def config(**fields) -> LoopConfig:
    defaults = {
        "steps": 60, "learning_rate": 0.1, "warmup_steps": 5, "ema_decay": 0.9, "checkpoint_every": 20, "log_every": 20,
        "precision": "fp32", "compiled": False,
    }  # fmt: skip
    return LoopConfig(**{**defaults, **fields})


@pytest.mark.parametrize("graphed", [False, True])
def test_it_learns_and_records_its_curve(tmp_path, graphed):
    module = line()
    train(module, config(graphed=graphed), batch=batch, loss=loss, folder=tmp_path)
    assert loss(module, batch(999))["loss"] < 0.05
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_batches_of_worker_processes_are_those_of_this_one(tmp_path):
    found = [line(), line()]
    for workers, module in zip((0, 2), found):
        train(module, config(workers=workers), batch=batch, loss=loss, folder=tmp_path / str(workers))
    assert torch.equal(found[0].weight, found[1].weight)

    def missing(step: int) -> dict[str, torch.Tensor]:
        raise PIDiffError("photo.png is gone: put it back.")

    with pytest.raises(PIDiffError, match=r"^photo.png is gone: put it back.$"):
        train(line(), config(workers=2), batch=missing, loss=loss, folder=tmp_path / "missing")


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = line()
    train(whole, config(log_every=10), batch=batch, loss=loss, folder=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stopping(step: int) -> dict[str, torch.Tensor]:
        if step == 57:  # after a logged step, before its checkpoint
            raise Stop
        return batch(step)

    with pytest.raises(Stop):
        train(line(), config(log_every=10), batch=stopping, loss=loss, folder=tmp_path / "parts")
    resumed = line()
    train(resumed, config(log_every=10), batch=batch, loss=loss, folder=tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
    steps = [
        [row["step"] for row in csv.DictReader((tmp_path / part / "curve.csv").open())] for part in ("whole", "parts")
    ]
    assert steps[0] == steps[1]


def test_a_finished_run_is_not_trained_again(tmp_path):
    module = line()
    train(module, config(), batch=batch, loss=loss, folder=tmp_path)

    def never(step: int) -> dict[str, torch.Tensor]:
        raise AssertionError("no step is left")

    again = line()
    train(again, config(), batch=never, loss=loss, folder=tmp_path)
    assert torch.equal(module.weight, again.weight)


def test_another_modules_checkpoint_is_refused(tmp_path):
    train(line(), config(), batch=batch, loss=loss, folder=tmp_path)
    with pytest.raises(PIDiffError, match="another model"):
        train(torch.nn.Linear(4, 1), config(), batch=batch, loss=loss, folder=tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path):
    def broken(step: int) -> dict[str, torch.Tensor]:
        values = batch(step)
        return {**values, "y": values["y"] * float("nan")} if step >= 30 else values

    with pytest.raises(PIDiffError, match=r"step 31 .*after step 20"):
        train(line(), config(), batch=broken, loss=loss, folder=tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 20


def noisy_loss(module, inputs):
    out = module(inputs["x"]).float()
    return {"loss": (out + torch.randn_like(out) - inputs["y"]).square().mean()}


def test_what_is_random_follows_the_seed_and_disturbs_nobody(tmp_path):
    before = torch.get_rng_state()
    modules = [fresh(lambda: torch.nn.Linear(3, 1), seed=seed) for seed in (4, 4, 5)]
    train(modules[0], config(), batch=batch, loss=noisy_loss, folder=tmp_path / "0")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)  # what else a process draws makes no difference
    train(modules[1], config(), batch=batch, loss=noisy_loss, folder=tmp_path / "1")
    assert torch.equal(modules[0].weight, modules[1].weight)
    train(modules[2], config(), batch=batch, loss=noisy_loss, folder=tmp_path / "2")
    assert not torch.equal(modules[0].weight, modules[2].weight)


@pytest.mark.parametrize("order", [("fp32", "bf16"), ("bf16", "fp32")])
def test_stages_of_one_process_differ_in_precision(tmp_path, order):
    for precision in order:
        seen = []

        def recording(module, inputs, seen=seen):
            seen.append(module(inputs["x"]).dtype)
            return loss(module, inputs)

        module = line()
        train(module, config(precision=precision), batch=batch, loss=recording, folder=tmp_path / precision)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert module.weight.dtype == torch.float32
    with pytest.raises(PIDiffError, match="'fp16'"):
        config(precision="fp16")


def test_the_rate_warms_up_and_decays():
    rates = [config().rate(step) for step in range(60)]
    assert rates[0] < rates[4] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.03


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    train(line(), config(steps=20), batch=batch, loss=loss, folder=tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond 1000 bytes
    try:
        with pytest.raises(PIDiffError, match=r"state\.pt could not be written.*free some space"):
            train(line(), config(steps=40), batch=batch, loss=loss, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))
    train(line(), config(steps=40), batch=batch, loss=loss, folder=tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 40


def test_a_full_disk_leaves_the_last_sample_grid_whole_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    noise = torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    save_grid(tmp_path / "grid.png", torch.zeros(4, 16, 16, 3), columns=2)
    before = (tmp_path / "grid.png").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(PIDiffError, match=r"Cannot write .*grid\.png .*free space"):
            save_grid(tmp_path / "grid.png", noise, columns=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert (tmp_path / "grid.png").read_bytes() == before
    save_grid(tmp_path / "grid.png", noise, columns=2)
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(line(), config(steps=40), batch=batch, loss=loss, folder=tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(PIDiffError, match=r"state\.pt cannot be read .*previous_state\.pt"):
        train(line(), config(steps=40), batch=batch, loss=loss, folder=tmp_path)
    state.unlink()  # what the message says to do
    assert torch.load(tmp_path / "previous_state.pt", weights_only=True)["step"] == 20
    assert train(line(), config(steps=40), batch=batch, loss=loss, folder=tmp_path)


def test_auto_precision_stays_what_it_was(tmp_path):
    train(line(), config(steps=20, precision="bf16"), batch=batch, loss=loss, folder=tmp_path)
    seen = []

    def recording(module, inputs):
        seen.append(module(inputs["x"]).dtype)
        return loss(module, inputs)

    train(line(), config(steps=40, precision="auto"), batch=batch, loss=recording, folder=tmp_path)
    assert set(seen) == {torch.bfloat16}


def test_exception_for_an_optimiser_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(PIDiffError, match="pip install prodigyopt"):
        train(line(), config(optimiser="prodigy"), batch=batch, loss=loss, folder=tmp_path)
    with pytest.raises(PIDiffError, match="'sgd': expected one of adamw"):
        train(line(), config(optimiser="sgd"), batch=batch, loss=loss, folder=tmp_path)
