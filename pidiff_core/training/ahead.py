"""Batches that worker processes make while the device is busy with those before."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import PIDiffError


class _Asked(Dataset):
    def __init__(self, make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.make, self.arguments = make, arguments

    def __len__(self) -> int:
        return len(self.arguments)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.make(*self.arguments[index])
        except PIDiffError as error:  # raised as it is by the other process; the loader would put a traceback around it
            return error


def made_ahead(make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, workers: int) -> Iterator[Any]:
    """make(*arguments[0]), make(*arguments[1]) and so on, in this order.

    Args:
        make: depends on its arguments alone. It returns tensors on the CPU, in dictionaries or alone.
        arguments: of each call.
        workers: processes that run `make` ahead, forked from this one; 0 = it runs here when a result is asked for.
    """
    if not workers:
        yield from (make(*each) for each in arguments)
        return
    loader = DataLoader(
        _Asked(make, arguments),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=_ignore_interrupts,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the loader draws from it: torch's own random numbers go on undisturbed
    )
    for result in loader:
        if isinstance(result, PIDiffError):
            raise result
        yield result


def _ignore_interrupts(_: int) -> None:
    # Ctrl-C reaches all processes of a terminal: the loop finishes its step first, for which it needs its batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
