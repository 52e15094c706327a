"""One resumable training loop for every model of the project, on accelerate: one process or many, replicated or
sharded (FSDP2)."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import PIDiffError
from .ahead import made_ahead
from .logs import Curve, Trackers
from .optimisers import make_optimiser
from .precision import PRECISIONS, choose_precision
from .state import STATE_FILE, RunState

Batch = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)
SHARDINGS = ("none", "fsdp2")


@dataclass(frozen=True)
class LoopConfig:
    """How a model is trained.

    Warm-up, then a cosine decay (Loshchilov and Hutter 2017) or a constant rate; an exponential moving average of the
    weights is what the loop leaves in the module at the end.

    Raises:
        PIDiffError: a value is outside what is listed here.
    """

    steps: int  # optimiser steps in all, over every resumption
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_steps: int = 200
    final_rate: float = 0.02  # the cosine ends at this part of learning_rate; 1 = a constant rate
    optimiser: str = "adamw"  # see optimisers.py
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999  # 0 = no averaging
    accumulation: int = 1  # micro-batches of an optimiser step, in each process
    checkpoint_every: int = 200
    validate_every: int = 0  # 0 = never
    log_every: int = 25
    precision: str = "bf16"  # of the loss: "bf16" by autocast, "fp32", or "auto" (there is no loss scaling for fp16)
    compiled: bool = True  # torch.compile of the loss
    graphed: bool = False  # on one GPU, instead of compiling: CUDA graphs of the loss; all batches have the same shapes
    workers: int = 0  # processes that make the batches of the coming steps; 0 = this one makes each when it is due
    sharding: str = "none"  # "fsdp2": parameters and optimiser state shared out over the processes
    seed: int = 0  # of the random numbers that the loss draws

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PIDiffError(f"The precision is '{self.precision}': expected one of {', '.join(PRECISIONS)}.")
        if self.sharding not in SHARDINGS:
            raise PIDiffError(f"The sharding is '{self.sharding}': expected one of {', '.join(SHARDINGS)}.")
        for name, least in (("accumulation", 1), ("checkpoint_every", 1), ("log_every", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise PIDiffError(f"{name} is {getattr(self, name)}: expected at least {least}.")
        if self.graphed and self.accumulation > 1:
            # The backward graph writes each micro-batch's gradients to the same memory, which .grad shares.
            raise PIDiffError(
                f"graphed is true and accumulation is {self.accumulation}: CUDA graphs cannot add up the gradients of "
                "micro-batches. Set accumulation to 1, or graphed to false."
            )

    def uses_graphs(self, device: torch.device, *, processes: int) -> bool:
        """Whether the loss runs as CUDA graphs there."""
        return self.graphed and device.type == "cuda" and processes == 1

    def uses_workers(self) -> int:
        """How many processes make batches beside a training process on this machine."""
        return self.workers if "fork" in get_all_start_methods() else 0

    def notes(self, device: torch.device, *, processes: int) -> list[str]:
        """Settings that are not followed there. The result is the same without them, only speed or memory differ."""
        found = []
        if self.graphed and not self.uses_graphs(device, processes=processes):
            why = "there is no CUDA GPU" if device.type != "cuda" else f"there are {processes} processes"
            found.append(f"graphed = true is not followed because {why}: training runs without CUDA graphs")
        if self.workers > self.uses_workers():
            found.append(
                f"workers = {self.workers} is not followed because this operating system cannot fork processes: the "
                "training process makes its batches itself"
            )
        if self.sharding != "none" and processes == 1:
            found.append(f"sharding = {self.sharding} is not followed because there is one process: start torchrun")
        return found

    def rate(self, step: int) -> float:
        """Learning rate of a step, as a factor of `learning_rate`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Share:
    """Which part of a step's batch is asked for: number `part` of `parts` equal ones."""

    part: int = 0
    parts: int = 1


def fresh(build: Callable[[], Module], *, seed: int) -> Module:
    """A new module whose first weights depend on the seed alone; torch's own random numbers go on undisturbed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


class _Objective(nn.Module):
    """The loss as one module's forward pass, which is what data parallelism wraps."""

    def __init__(self, module: nn.Module, loss: Callable[[nn.Module, Batch], dict[str, Tensor]]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, inputs: Batch) -> dict[str, Tensor]:
        return self.loss(self.module, inputs)


def train(
    module: nn.Module,
    config: LoopConfig,
    *,
    batch: Callable[..., Batch],
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
    folder: Path,
    snapshot: Callable[[nn.Module, int], Tensor | None] | None = None,
    snapshot_on: str | None = "cpu",
    validation: Callable[[Share], Iterable[Batch]] | None = None,
    files: Callable[[int], Sequence[str]] | None = None,
    frozen: nn.Module | None = None,
    trackers: Sequence[str] = (),
) -> bool:
    """Train `module` in place until `config.steps`, from the newest checkpoint in `folder` on.

    Runs on a GPU if there is one; in several processes if torchrun or accelerate started them.

    Args:
        batch: step -> inputs; if a step is shared out over processes or micro-batches, (step, share) -> that share of
            them. It must depend on its arguments alone, so that a resumed run sees what an unbroken one would.
        loss: (module, inputs) -> named scalars; the one called "loss" is minimised, the others are logged. Each must
            be a mean over samples: the loop averages over shares.
        snapshot: called with the averaged module at every checkpoint, in the main process (pictures to look at); the
            pictures (B, H, W, 3) that it returns go to the trackers. Not called if the module is sharded.
        snapshot_on: the device that the module is moved to for it; None = it is not moved, as a graph demands.
        validation: share -> held-out inputs, the same at every call, for the averaged module's loss every
            `validate_every` steps and at the end; it goes to validation.csv.
        files: step -> names of what is in its batch, for the message when the loss is not finite.
        frozen: a network that the module uses without owning it, to be sharded with it.
        trackers: names from `logs.TRACKERS`.

    Writes `folder/state.pt` (whole or not at all; the one before it is kept as previous_state.pt) and appends to
    `folder/curve.csv`. A first Ctrl-C finishes the step, writes a checkpoint and returns. The module is on the CPU
    when this returns.

    Returns:
        Whether all steps are done; False after Ctrl-C.

    Raises:
        PIDiffError: the loss is no longer finite, or `folder` holds the checkpoint of another module.
    """
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    # Without its mixed precision: the first Accelerator of a process fixes that for all others, but stages differ.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    device, main, processes = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    folder.mkdir(parents=True, exist_ok=True)
    module.to(device)
    sharded = config.sharding == "fsdp2" and processes > 1
    graphed = config.uses_graphs(device, processes=processes)
    objective: nn.Module = _Objective(module, torch.compile(loss) if config.compiled and not graphed else loss)
    if sharded:
        _shard(objective, frozen, device=device, processes=processes)
    elif processes > 1:
        objective = accelerator.prepare_model(objective)
    optimiser = make_optimiser(
        config.optimiser,
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        learning_rate=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    run = RunState.of(module, optimiser, rate=config.rate, ema_decay=config.ema_decay, path=folder / STATE_FILE)
    start = done = run.resume()
    precision = run.precision if config.precision == "auto" else config.precision
    if not precision:  # measured once a run, in one process: a resumed run goes on in what it began in
        precision = broadcast_object_list([choose_precision(config.precision, device) if main else ""])[0]
    run.precision = precision
    # A graph computes the weights in bf16 itself, every time: autocast's copies belong to one pass only.
    autocast = torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False if graphed else None
    )
    curve, held_out = Curve(folder / "curve.csv", since=start), Curve(folder / "validation.csv", since=start)
    tracking = Trackers(trackers if main else (), folder, run=folder.name)
    shares = config.accumulation
    parts, first = processes * shares, accelerator.process_index * shares

    def log(to: Curve, step: int, scalars: dict[str, float], prefix: str) -> None:
        if main:
            to.add(step, scalars)
            tracking.scalars({f"{folder.name}/{prefix}{name}": value for name, value in scalars.items()}, step=step)

    def evaluated() -> dict[str, float]:
        sums: dict[str, list[Tensor]] = {}
        assert validation is not None
        with run.averaged(), autocast, torch.no_grad():
            objective.eval()  # which a graph is not used for
            for inputs in validation(Share(accelerator.process_index, processes)):
                for name, value in objective(_moved(inputs, device)).items():
                    sums.setdefault(name, []).append(value.float())
            objective.train()
        return {name: float(accelerator.reduce(torch.stack(found).mean(), "mean")) for name, found in sums.items()}

    asked = [
        (step,) if parts == 1 else (step, Share(first + index, parts))
        for step in range(start, config.steps)
        for index in range(shares)
    ]
    batches = made_ahead(batch, asked, workers=config.uses_workers())
    module.train()
    if graphed and asked:
        # A small network's kernels take less time than their launches one by one.
        with autocast:
            sample: Any = (_moved(batch(*asked[0]), device),)
            torch.cuda.make_graphed_callables(objective, sample, allow_unused_input=True)  # changes its forward
    with (
        torch.random.fork_rng(),
        _interruptible() as interrupted,
        tqdm(total=config.steps, initial=start, desc=folder.name, mininterval=10, disable=not main) as progress,
    ):
        for step in range(start, config.steps):
            began = time.monotonic()
            torch.manual_seed(config.seed * 1_000_003 + step)
            sums: dict[str, Tensor] = {}
            for index in range(shares):
                inputs = next(batches)
                with accelerator.no_sync(objective) if index < shares - 1 else nullcontext():
                    with autocast:
                        values = objective(_moved(inputs, device))
                    (values["loss"] / shares).backward()
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach().float() / shares
            norm = nn.utils.clip_grad_norm_(run.parameters, config.clip_norm)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            if not math.isfinite(float(norm)):  # the same in all processes: gradients are averaged over them
                raise PIDiffError(_not_finite(step + 1, folder, run.saved_step, files(step) if files else ()))
            run.update()
            done = step + 1
            progress.update()
            stop = _any(accelerator, interrupted.is_set())
            if done % config.log_every == 0 or done == config.steps:
                scalars = {name: float(accelerator.reduce(value, "mean")) for name, value in sums.items()}
                progress.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
                scalars |= {"rate": run.rate(), "gradient_norm": float(norm)}
                log(curve, done, {"seconds_per_step": time.monotonic() - began, **scalars}, "")
            due = config.validate_every and done % config.validate_every == 0
            if validation is not None and (due or done == config.steps):
                log(held_out, done, evaluated(), "held_out_")
            if done % config.checkpoint_every == 0 or done == config.steps or stop:
                run.save(done, main=main)
                if snapshot is not None and main and not sharded and not stop:
                    with run.averaged(), torch.no_grad():
                        pictures = snapshot(module.to(snapshot_on or device), done)
                        module.to(device)
                    if pictures is not None:
                        tracking.images(f"{folder.name}/samples", pictures, step=done)
                accelerator.wait_for_everyone()
            if stop:
                break
    tracking.close()
    run.leave_average()
    module.cpu().eval()
    return done >= config.steps


def _shard(objective: nn.Module, frozen: nn.Module | None, *, device: torch.device, processes: int) -> None:
    """FSDP2: the trainable parameters in one group, each block of the frozen network in one of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    if frozen is not None:
        for child in frozen.children():
            for block in child if isinstance(child, nn.ModuleList) else (child,):
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
        fully_shard(frozen, mesh=mesh)
        objective.frozen = frozen
    fully_shard(objective, mesh=mesh)


def _moved(inputs: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def _any(accelerator: Any, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second one ends the program as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: Any) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _not_finite(step: int, folder: Path, saved: int, files: Sequence[str]) -> str:
    shown = f" Files of this batch: {', '.join(files[:16])}." if files else ""
    kept = f"The state after step {saved} is in {folder / STATE_FILE}" if saved else "No checkpoint was written yet"
    return (
        f"The loss or its gradients are not finite at step {step} of {folder.name}.{shown} {kept}: lower the learning "
        "rate, or remove a damaged file from the data, and run the same command again."
    )
