"""Weights and inputs as seeds, so that two implementations can be given the same ones without storing them.

Every tensor has a random stream of its own, seeded by its name: the order in which a module lists them does not matter.
NumPy's PCG64 gives the same numbers on every machine.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Standard normal numbers that belong to this name."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def weights(state: dict[str, Tensor], *, seed: int = 0) -> dict[str, Tensor]:
    """Values for every entry of a state dict, of sizes that keep the signal within a few units in a deep network."""
    return {name: _value(name, tensor, seed) for name, tensor in state.items()}


def sample(output: Tensor, *, count: int = 256) -> list[float]:
    """The values at `count` places that the output's shape decides, as plain numbers."""
    flat = output.detach().flatten().double()
    places = np.random.default_rng(flat.numel()).choice(flat.numel(), size=min(count, flat.numel()), replace=False)
    return flat[torch.from_numpy(np.sort(places))].tolist()


def _value(name: str, tensor: Tensor, seed: int) -> Tensor:
    shape = tuple(tensor.shape)
    if name.endswith("kernel") or not tensor.is_floating_point():
        return tensor  # blur filters and counters are constants of the architecture
    noise = normal(name, shape, seed=seed)
    if name.endswith("running_var"):
        return 1.0 + 0.2 * noise.clamp(-2, 2)
    if name.endswith("modulation.bias"):
        return 1.0 + 0.1 * noise
    if name.startswith("style.") and name.endswith("weight"):  # the mapping network's learning rate is 0.01
        return 100.0 * noise
    if name.startswith("style."):
        return 10.0 * noise
    if len(shape) == 1 and name.endswith("weight") and shape[0] > 1:  # batch norm, PReLU
        return 0.75 + 0.1 * noise
    if len(shape) == 4 and shape[0] > 1:  # plain convolutions: He's variance
        return noise * (2.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
    if len(shape) <= 1:  # biases, strengths of noise
        return 0.1 * noise
    return noise  # equalised weights, constant input, stored noise
