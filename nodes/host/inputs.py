"""The values that a node receives, checked against its own schema, and numbers written as text.

ComfyUI compares a constant with the input's range and options when a job is queued. It compares nothing that another
node computes: a wire of any type may carry anything, and NaN passes because it is neither below the minimum nor above
the maximum.
"""

from __future__ import annotations

import functools
import inspect
import math
import unicodedata
from collections.abc import Callable
from typing import Any

import comfy.sample
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

from ...pidiff_core.errors import PIDiffError, listed, quoted
from ...pidiff_core.model import PIDiffModel
from ...pidiff_core.shapes import check_number, check_shape
from ...pidiff_core.wplus.codes import WPlus

_MOST_PLACES = 10_000  # the host draws the noise of every place before the one that is asked for
Ranges = dict[str, tuple[float, float, bool]]
Check = Callable[[Any], Any]


def checked_inputs(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute` that raises a PIDiffError for a value that its input does not take.

    Write it below `@classmethod`. Inputs are found in the schema, so a new one needs no entry here. Numbers are
    checked first.
    """
    signature = inspect.signature(execute)
    # Empty until the first call; the host makes a new class for every run.
    known: list[tuple[dict[str, Check], list[str]]] = []

    @functools.wraps(execute)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        if not known:
            node = given.arguments["cls"]
            numbers = ranges_of(node)  # None is no number
            defaults = [
                name
                for name, one in signature.parameters.items()
                if one.default is not one.empty and name not in numbers
            ]
            known.append((_checks_of(node), defaults))
        checks, defaults = known[0]
        for name in defaults:
            if given.arguments.get(name, given) is None:  # a wire without a value, as if nothing were connected
                del given.arguments[name]
        for name, check in checks.items():
            if name in given.arguments:
                given.arguments[name] = check(given.arguments[name])
        return execute(*given.args, **given.kwargs)

    return checked


def _checks_of(node: Any) -> dict[str, Check]:
    """By an input's name: what returns its value, or raises a PIDiffError."""
    ranges = ranges_of(node)
    checks: dict[str, Check] = {
        name: functools.partial(check_number, low=low, high=high, name=name, is_whole=is_whole)
        for name, (low, high, is_whole) in ranges.items()
    }
    own_choice = inspect.signature(node.validate_inputs).parameters  # as ComfyUI does: their options are not compared
    for declared in node.define_schema().inputs:
        kind = getattr(declared, "io_type", None)
        if kind == "COMBO" and declared.id not in own_choice:
            checks[declared.id] = functools.partial(_check_choice, options=list(declared.options), name=declared.id)
        elif kind in _WIRES:
            expected, check = _WIRES[kind]
            checks[declared.id] = functools.partial(
                _check_wire, check=check, expected=expected, name=declared.id, is_optional=bool(declared.optional)
            )
    return checks


def _check_choice(value: Any, *, options: list[str], name: str) -> Any:
    if not isinstance(value, str) or value not in options:
        raise PIDiffError(f"{name} should be one of {listed(options, most=20)}, but it is {_described(value)}.")
    return value


def _check_wire(value: Any, *, check: Callable[[Any], bool], expected: str, name: str, is_optional: bool) -> Any:
    if (value is None and is_optional) or check(value):
        return value
    raise PIDiffError(f"{name} should be {expected}, but it is {_described(value)}. Connect an output of that type.")


def _described(value: Any) -> str:
    if isinstance(value, (str, int, float, bool, type(None))):
        return quoted(value)
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if isinstance(shape, torch.Size) else "")


def _is_data(value: Any) -> bool:
    """Whether this is a tensor with numbers in memory: not sparse, not on the meta device, not of 8-bit floats."""
    is_tensor = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta
    return is_tensor and not (value.is_floating_point() and value.dtype.itemsize == 1)


def _is_latent(value: Any) -> bool:
    samples: Any = value.get("samples") if isinstance(value, dict) else None
    return _is_data(samples) and samples.is_floating_point() and samples.ndim >= 4 and samples.numel() > 0


def _is_conditioning(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(
            isinstance(entry, (list, tuple))
            and len(entry) == 2
            and _is_data(entry[0])
            and entry[0].ndim == 3
            and entry[0].numel() > 0
            and entry[0].is_floating_point()
            and isinstance(entry[1], dict)
            for entry in value
        )
    )


def check_prompt(model: ModelPatcher, conditioning: Any, *, name: str) -> None:
    """Raise a PIDiffError if a prompt was encoded for a model of another width, before the model fails on it."""
    width = model.model.model_config.unet_config.get("context_dim")
    for embedding, _ in conditioning:
        if isinstance(width, int) and embedding.shape[-1] != width:
            raise PIDiffError(
                f"{name} was encoded for another base model: it has {embedding.shape[-1]} numbers a token, this model "
                f"takes {width}. Use the CLIP output of the checkpoint that model comes from."
            )


def checked_samples(model: ModelPatcher, latent: dict[str, Any], *, name: str) -> torch.Tensor:
    """The samples (B, C, H, W) of a LATENT as this model takes them; ComfyUI adapts the channels of an empty one.

    Raises:
        PIDiffError: samples of another shape or not finite, or a batch_index or noise_mask that no sampler can use.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    sizes = check_shape(samples, "B C H W", name=name)
    channels = model.model.latent_format.latent_channels
    if sizes["C"] != channels or samples.numel() == 0:
        raise PIDiffError(
            f"{name} has the shape {tuple(samples.shape)}, but this model takes "
            f"(B, {channels}, H, W). Use a latent of the same base model, that is not empty."
        )
    if not samples.isfinite().all():
        raise PIDiffError(f"{name} holds numbers that are not finite. Use the latent of a picture that was decoded.")
    numbers = latent.get("batch_index")
    if numbers is not None and not _are_places(numbers, count=len(samples)):
        raise PIDiffError(
            f"batch_index of {name} should be {len(samples)} whole numbers from 0 to {_MOST_PLACES}, one for each "
            f"picture, but it is {_described(numbers)}. Connect a latent of Empty Latent Image or Latent From Batch."
        )
    mask = latent.get("noise_mask")
    if mask is not None and not (_is_mask(mask) and mask.isfinite().all()):
        raise PIDiffError(
            f"noise_mask of {name} should be a MASK (B, H, W) of finite numbers, but it is {_described(mask)}. Set it "
            "with Set Latent Noise Mask."
        )
    return samples


def _are_places(numbers: Any, *, count: int) -> bool:
    return (
        isinstance(numbers, (list, tuple))
        and len(numbers) == count
        and all(type(number) is int and 0 <= number <= _MOST_PLACES for number in numbers)
    )


def _is_mask(value: Any) -> bool:
    return _is_data(value) and 2 <= value.ndim <= 4 and not value.is_complex()


def _is_vae(value: Any) -> bool:
    """Other packs have classes of their own for it, with the same methods; a CLIP has them too."""
    has_both = hasattr(value, "encode") and hasattr(value, "decode")
    return has_both and not isinstance(value, str) and not hasattr(value, "tokenize")


# By the type of a wire: what is expected, in words, and whether a value is that.
_WIRES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "COMBO": ("a text", lambda value: isinstance(value, str)),
    "STRING": ("a text", lambda value: isinstance(value, str)),
    "BOOLEAN": ("true or false", lambda value: isinstance(value, (bool, int, np.bool_))),
    "IMAGE": ("an IMAGE (B, H, W, C)", lambda value: _is_data(value) and value.ndim == 4),
    "MASK": ("a MASK (B, H, W)", _is_mask),
    "LATENT": ("a LATENT (B, C, H, W) that is not empty", _is_latent),
    "CONDITIONING": ("a CONDITIONING with at least one prompt", _is_conditioning),
    "MODEL": ("a MODEL", lambda value: isinstance(value, ModelPatcher)),
    "VAE": ("a VAE", _is_vae),
    "PIDIFF_MODEL": ("a PIDiff model", lambda value: isinstance(value, PIDiffModel)),
    "PIDIFF_WPLUS": ("W+ codes", lambda value: isinstance(value, WPlus)),
}


def ranges_of(node: Any) -> Ranges:
    """By a number input's name: the smallest and the largest value, and whether it is a whole number."""
    return {
        declared.id: (
            -math.inf if declared.min is None else declared.min,
            math.inf if declared.max is None else declared.max,
            declared.io_type == "INT",
        )
        for declared in node.define_schema().inputs
        if getattr(declared, "io_type", None) in ("INT", "FLOAT")
    }


def numbers_in(text: str, *, name: str) -> list[float]:
    """Numbers with spaces, semicolons or commas between; '0,5 1,5' has decimal commas.

    name: of the numbers, for the error, such as "weights".

    Raises:
        PIDiffError: a word is not a number.
    """
    words = [word.strip(",") for word in unicodedata.normalize("NFKC", text).replace(";", " ").split()]
    if len(words) > 1:  # the spaces are what separates: a comma inside a word is a decimal one
        words = [word.replace(",", ".") for word in words if word]
    else:
        words = [part for word in words for part in word.split(",")]
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise PIDiffError(
            f"The {name} {quoted(text)} are not numbers. Write numbers with spaces between them, for example '1 1 0.5'."
        ) from error
