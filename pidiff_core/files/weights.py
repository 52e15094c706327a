"""Weights into networks: every key used, every parameter filled, every number finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import PIDiffError, check_interrupted, listed

_Network = TypeVar("_Network", bound=nn.Module)


def check_weights(network: nn.Module, weights: Mapping[str, object], *, name: str) -> None:
    """Check that weights fit a network: keys, shapes, and kinds of numbers. No number is read.

    Args:
        network: on any device, the meta device included.
        weights: by key; tensors without memory will do.
        name: the network's name in errors.

    Raises:
        PIDiffError: lists the keys that are missing, left over, not tensors, or of a wrong shape or type.
    """
    own = network.state_dict()
    problems = []
    if missing := [key for key in own if key not in weights]:
        problems.append(f"missing: {listed(missing)}")
    if left_over := [key for key in weights if key not in own]:
        problems.append(f"left over: {listed(left_over)}")
    if others := [key for key in own if key in weights and not isinstance(weights[key], Tensor)]:
        problems.append(f"not tensors: {listed(others)}")
    given = {key: value for key, value in weights.items() if key in own and isinstance(value, Tensor)}
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in given.items()
        if value.shape != own[key].shape
    ]
    if shapes:
        problems.append(f"wrong shapes: {listed(shapes)}")
    types = [
        f"{key} {value.dtype} instead of {own[key].dtype}"
        for key, value in given.items()
        if value.is_floating_point() != own[key].is_floating_point() and not key.endswith("num_batches_tracked")
    ]
    if types:
        problems.append(f"wrong types: {listed(types)}")
    if problems:
        raise PIDiffError(f"The weights do not fit {name}: {'; '.join(problems)}. Is this the right file?")


def load_strict(
    network: nn.Module, weights: Mapping[str, Tensor], *, name: str, dtype: torch.dtype | None = None
) -> None:
    """Load weights that are in memory into a network.

    Args:
        network: one on the meta device takes the tensors themselves, without a second copy in memory.
        weights: its weights by key.
        name: what the error calls it.
        dtype: what its floating-point weights become; None leaves them as they are.

    Raises:
        PIDiffError: see `check_weights`; or weights that are not finite.
    """
    check_weights(network, weights, name=name)
    if dtype is not None:
        weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    _check_finite([key for key, value in weights.items() if not all_finite(value)], name=name, dtype=dtype)
    on_meta = any(value.is_meta for value in network.state_dict().values())
    network.load_state_dict(dict(weights), strict=True, assign=on_meta)


def materialize(
    network: _Network, read: Callable[[str], Tensor], *, dtype: torch.dtype = torch.float32, name: str
) -> _Network:
    """Fill a network on the meta device from a file, tensor by tensor, and make it ready for inference.

    At no time is more in memory than the network itself and one tensor as the file has it.

    Args:
        network: its shapes checked by `check_weights`. It is changed in place: evaluation mode, no gradients.
        read: a tensor of the file by its key, in memory of its own.
        dtype: what its floating-point weights become.
        name: what the error calls it.

    Raises:
        PIDiffError: weights that are not finite, or not in `dtype`.
    """
    weights: dict[str, Tensor] = {}
    broken = []
    for key, own in network.state_dict().items():
        check_interrupted()
        value = read(key)
        weights[key] = value.to(dtype) if own.is_floating_point() else value
        if not all_finite(weights[key]):
            broken.append(key)
    _check_finite(broken, name=name, dtype=dtype)
    network.load_state_dict(weights, strict=True, assign=True)
    return network.to(dtype).eval().requires_grad_(False)  # `to`: buffers that are in no file


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose key starts with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def all_finite(tensor: Tensor) -> bool:
    """A sum is quicker than a mask of the tensor's size, and only an overflow can make it infinite without cause."""
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:  # float8 has no sum
        tensor = tensor.float()
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _check_finite(broken: list[str], *, name: str, dtype: torch.dtype | None) -> None:
    if broken:
        half = " (half precision holds no number above 65504: choose fp32)" if dtype == torch.float16 else ""
        raise PIDiffError(f"The weights of {name} are not finite: {listed(broken)}{half}. Is this the right file?")
