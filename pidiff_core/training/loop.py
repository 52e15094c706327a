"""One resumable training loop for every model of the project, on accelerate."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import PIDiffError

Batch = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class LoopConfig:
    """How a model is trained.

    Warm-up then cosine decay (Loshchilov and Hutter 2017) of AdamW's rate; an exponential moving average of the weights
    is what the loop leaves in the module at the end.
    """

    steps: int  # optimiser steps in all, over every resumption
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_steps: int = 200
    final_rate: float = 0.02  # the cosine ends at this part of learning_rate
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    checkpoint_every: int = 200
    log_every: int = 25
    precision: str = "bf16"  # of the loss: "bf16" by autocast, or "no" (there is no loss scaling for fp16)
    compiled: bool = True  # torch.compile of the loss
    seed: int = 0  # of the random numbers that the loss draws

    def __post_init__(self) -> None:
        if self.precision not in ("no", "bf16"):
            raise PIDiffError(f"The precision '{self.precision}' was asked for; training knows 'no' and 'bf16'.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, as a factor of `learning_rate`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fresh(build: Callable[[], Module], *, seed: int) -> Module:
    """A new module whose first weights depend on the seed alone; torch's own random numbers go on undisturbed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def train(
    module: nn.Module,
    config: LoopConfig,
    *,
    batch: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
    folder: Path,
    snapshot: Callable[[nn.Module, int], None] | None = None,
) -> None:
    """Train `module` in place until `config.steps`, from the newest checkpoint in `folder` on.

    Runs on a GPU where there is one.

    batch: step -> inputs; it must depend on the step alone, so that a resumed run sees what an unbroken one would.
    loss: (module, inputs) -> named scalars; the one called "loss" is minimised, the others are logged.
    snapshot: called with the averaged module, on the CPU, at every checkpoint (pictures to look at).

    The module is on the CPU when this returns.

    Writes `folder/state.pt` (whole or not at all) and appends to `folder/curve.csv`.

    Raises:
        PIDiffError: the loss is no longer finite, or `folder` holds the checkpoint of another module.
    """
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel
    from tqdm import tqdm

    # Without its mixed precision: the first Accelerator of a process fixes that for all others, but stages differ.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate)
    module.to(accelerator.device)
    average = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, inv_gamma=1, power=0.75)
    state_file = folder / "state.pt"
    start = _resume(state_file, module, optimizer, scheduler, average)
    average.to(accelerator.device)
    run = torch.compile(loss) if config.compiled else loss
    curve = _Curve(folder / "curve.csv", since=start)
    module.train()
    steps = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=folder.name, mininterval=30)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + start)
        for step in steps:
            began = time.monotonic()
            inputs = {name: tensor.to(accelerator.device) for name, tensor in batch(step).items()}
            with autocast:
                values = run(module, inputs)
            accelerator.backward(values["loss"])
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            average.step(parameters)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                scalars = {name: float(value.detach()) for name, value in values.items()}
                if not math.isfinite(scalars["loss"]):
                    raise PIDiffError(
                        f"The loss of {folder.name} is {scalars['loss']} at step {done}. The last good state is in "
                        f"{state_file}: lower the learning rate and run again."
                    )
                curve.add(done, time.monotonic() - began, scalars)
            if done % config.checkpoint_every == 0 or done == config.steps:
                _save(state_file, done, module, optimizer, scheduler, average)
                if snapshot is not None:
                    with _averaged(module, parameters, average), torch.no_grad():
                        snapshot(module.cpu(), done)
                        module.to(accelerator.device)
    average.copy_to(parameters)
    module.cpu().eval()


@contextmanager
def _averaged(module: nn.Module, parameters: list[nn.Parameter], average: Any) -> Iterator[None]:
    """Swap the averaged weights in for a while."""
    average.store(parameters)
    average.copy_to(parameters)
    module.cpu().eval()
    try:
        yield
    finally:
        average.restore(parameters)
        module.train()


class _Curve:
    """Appends rows to a CSV file whose columns the first row names.

    Rows after step `since` are dropped: a stopped run had logged them, the resumed one will log them again.
    """

    def __init__(self, path: Path, *, since: int) -> None:
        self.path = path
        if path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            path.write_text("".join([header, *(row for row in rows if int(row.split(",")[0]) <= since)]))

    def add(self, step: int, seconds: float, scalars: dict[str, float]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "seconds_per_step", *scalars])
            writer.writerow([step, f"{seconds:.3f}", *(f"{value:.5f}" for value in scalars.values())])


def _save(path: Path, step: int, module: nn.Module, optimizer: object, scheduler: object, average: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "step": step,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),  # type: ignore[attr-defined]
            "scheduler": scheduler.state_dict(),  # type: ignore[attr-defined]
            "average": average.state_dict(),  # type: ignore[attr-defined]
        },
        temporary,
    )
    temporary.replace(path)


def _resume(path: Path, module: nn.Module, optimizer: object, scheduler: object, average: object) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        module.load_state_dict(state["module"])
    except RuntimeError as error:
        raise PIDiffError(
            f"{path} holds the checkpoint of another model ({str(error).splitlines()[0]}). Give another folder, or "
            "delete it to start again."
        ) from error
    optimizer.load_state_dict(state["optimizer"])  # type: ignore[attr-defined]
    scheduler.load_state_dict(state["scheduler"])  # type: ignore[attr-defined]
    average.load_state_dict(state["average"])  # type: ignore[attr-defined]
    return int(state["step"])
