"""Networks that are read from their file when they are first used, and then brought to where they run."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

Place = Callable[[nn.Module], Callable[[], None]]
"""Takes a network once; returns what brings it to its device, called before every use."""


def stay(network: nn.Module) -> Callable[[], None]:
    """The `Place` of a process without a model management: the network runs where it is."""
    return lambda: None


class LazyNetwork:
    """A network, read when it is first wanted. Whoever holds the same LazyNetwork shares one set of weights.

    Args:
        read: reads the network, on the CPU and ready for inference.
        place: where the host's model management takes over; it may move the network away between two uses.
    """

    def __init__(self, read: Callable[[], nn.Module], *, place: Place = stay) -> None:
        self._read: Callable[[], nn.Module] | None = read
        self._place = place
        self._network: nn.Module | None = None
        self._bring: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def ready(self) -> nn.Module:
        """The network, where it runs.

        Raises:
            PIDiffError: its weights cannot be read.
        """
        with self._lock:
            if self._network is None or self._bring is None:
                assert self._read is not None
                with torch.inference_mode(False):  # others may want gradients through the same weights
                    network = self._read()
                self._network, self._bring = network, self._place(network)
                self._read = None  # it may hold the file
            self._bring()
            return self._network
