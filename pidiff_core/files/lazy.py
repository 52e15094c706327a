"""Networks that are read from their file at the first use, and then moved to the device on which they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import nn

from ..errors import check_interrupted

Place = Callable[[nn.Module], Callable[[], None]]
"""Takes a network once; returns what brings it to its device, called before every use."""


def no_device_management(network: nn.Module) -> Callable[[], None]:
    """The `Place` of a process without model management: the network stays on its device."""
    return lambda: None


_interruptible: WeakSet[nn.Module] = WeakSet()


def make_interruptible(network: nn.Module) -> None:
    """Ask for the host's interrupt before each layer: a portrait of 1024 px takes seconds on a CPU."""
    if network not in _interruptible:
        _interruptible.add(network)
        for module in network.modules():
            module.register_forward_pre_hook(lambda *_: check_interrupted())


class LazyNetwork:
    """A network that is read when it is first wanted. All holders of one LazyNetwork share one set of weights.

    Args:
        read: reads the network, on the CPU and ready for inference.
        place: registers the network with the host's model management, which may move it away between two uses.
    """

    def __init__(self, read: Callable[[], nn.Module], *, place: Place = no_device_management) -> None:
        self._read: Callable[[], nn.Module] | None = read
        self._place = place
        self._network: nn.Module | None = None
        self._bring: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def ready(self) -> nn.Module:
        """The network, on the device on which it runs.

        Raises:
            PIDiffError: its weights cannot be read.
        """
        with self._lock:
            network, bring = self._read_once()
            bring()
            return network

    def anywhere(self) -> nn.Module:
        """The network on whatever device it is, to copy weights from it: the host is not asked to move anything.

        Raises:
            PIDiffError: its weights cannot be read.
        """
        with self._lock:
            return self._read_once()[0]

    def _read_once(self) -> tuple[nn.Module, Callable[[], None]]:
        if self._network is None or self._bring is None:
            assert self._read is not None
            with torch.inference_mode(False):  # others may want gradients through the same weights
                network = self._read()
            make_interruptible(network)
            self._network, self._bring = network, self._place(network)
            self._read = None  # it may hold other contents of the file
        return self._network, self._bring
