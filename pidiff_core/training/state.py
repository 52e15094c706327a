"""The state of a training run in one file, the same for every number of processes and for sharded parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import PIDiffError

STATE_FILE = "state.pt"


@dataclass(eq=False)
class RunState:
    """All that changes from step to step, and its file."""

    module: nn.Module
    parameters: list[nn.Parameter]
    optimiser: Any
    scheduler: Any
    average: Any | None  # diffusers' EMAModel
    path: Path
    saved_step: int = field(default=0, init=False)
    precision: str = field(default="", init=False)  # that the run computes in; "" before it has been chosen

    @classmethod
    def of(
        cls,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        rate: Callable[[int], float],
        ema_decay: float,
        path: Path,
    ) -> RunState:
        """The state before the first step."""
        from diffusers.training_utils import EMAModel

        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        average = None
        whole = not any(isinstance(parameter, DTensor) for parameter in parameters)
        if ema_decay and not hasattr(optimiser, "eval"):  # schedule-free optimisers average by themselves
            average = EMAModel(parameters, decay=ema_decay, use_ema_warmup=True, inv_gamma=1, power=0.75, foreach=whole)
        return cls(module, parameters, optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, rate), average, path)

    def update(self) -> None:
        """One optimiser step with the gradients that are there."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.scheduler.step()
        if self.average is not None:
            self.average.step(self.parameters)

    def rate(self) -> float:
        """The learning rate now."""
        return float(self.scheduler.get_last_lr()[0])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap the averaged weights in for a while; afterwards the weights are bit for bit what they were."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        self.leave_average()
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
            if hasattr(self.optimiser, "train"):
                self.optimiser.train()  # gives the weights back up to rounding only
            with torch.no_grad():
                for parameter, value in zip(self.parameters, before):
                    parameter.copy_(value)

    def leave_average(self) -> None:
        """Swap them in for good."""
        if self.average is not None:
            self.average.copy_to(self.parameters)
        elif hasattr(self.optimiser, "eval"):
            self.optimiser.eval()

    def save(self, step: int, *, main: bool) -> None:
        """Write the state; all processes must call it."""
        state = gathered(
            {
                "module": self.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
            }
        )
        if main:
            write_state(self.path, {"step": step, "precision": self.precision, **state})
        self.saved_step = step

    def resume(self) -> int:
        """Go back to the state in the file; the step after which it was written, 0 without a file."""
        if hasattr(self.optimiser, "train"):
            self.optimiser.train()
        state = read_state(self.path)
        if state is None:
            return 0
        restore_module(self.module, state["module"], path=self.path)
        restore_optimiser(self.optimiser, state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None and state["average"] is not None:
            shadows = [
                sharded_like(parameter, shadow.to(parameter.device))
                for parameter, shadow in zip(self.parameters, state["average"]["shadow_params"])
            ]
            self.average.load_state_dict({**state["average"], "shadow_params": shadows})
        self.saved_step, self.precision = int(state["step"]), state.get("precision", "")
        return self.saved_step


def gathered(value: Any) -> Any:
    """A copy of nested containers with every sharded tensor whole, on the CPU. All processes must call it."""
    return _mapped(value, lambda tensor: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu())


def sharded_like(parameter: Tensor, value: Any) -> Any:
    """Nested containers whose tensors of the parameter's shape are sharded as it is."""
    if not isinstance(parameter, DTensor):
        return value

    def shard(tensor: Tensor) -> Tensor:
        if tensor.shape != parameter.shape:
            return tensor
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)

    return _mapped(value, shard)


def restore_module(module: nn.Module, state: dict[str, Tensor], *, path: Path) -> None:
    """Copy weights into a module, sharded or not.

    Raises:
        PIDiffError: they belong to another module.
    """
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise PIDiffError(
            f"{path} holds the checkpoint of another model (it differs in {', '.join(wrong[:4])}). Give another "
            "folder, or delete it to start again."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(sharded_like(tensor, state[name]))


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The optimiser's state, each parameter's part sharded as the parameter is."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    parts = {index: sharded_like(parameters[index], part) for index, part in state["state"].items()}
    optimiser.load_state_dict({**state, "state": parts})


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value.detach())
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write the whole file or nothing; the one before it is kept as `previous_` and its name.

    Raises:
        PIDiffError: the disk is full or the folder cannot be written; the file that was there is still whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
        if path.exists():
            path.replace(_previous(path))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise PIDiffError(
            f"The checkpoint {path} could not be written ({error}). The last one is unchanged: free some space and "
            "run the same command again."
        ) from error


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote last, or None if it never did.

    Raises:
        PIDiffError: the file is damaged or another program's.
    """
    if not path.exists():
        path = _previous(path)  # a run that was killed between the two renames
        if not path.exists():
            return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise nearly every built-in kind on damaged files
        raise PIDiffError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}). Delete it: training then continues from "
            f"{_previous(path).name} if it is there, else from the beginning."
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise PIDiffError(f"{path} is not a checkpoint of PIDiff's training. Give another folder.")
    return state


def _previous(path: Path) -> Path:
    return path.with_name(f"previous_{path.name}")
