"""Other people's checkpoints of the encoder and the generator, recognised by their keys and loaded strictly.

- e4e (`e4e_ffhq_encode.pt`): `state_dict` with `encoder.*` and `decoder.*`, `latent_avg`, `opts`.
- StyleGAN2 in its widespread PyTorch layout: `g_ema` (and `latent_avg`), or the bare weights.

The sizes are read off the shapes, so that spaces of 256, 512 and 1024 px load alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .checkpoint import listed, load_strict, strip_prefix
from .e4e.config import EncoderConfig
from .e4e.encoder import E4eEncoder
from .errors import PIDiffError
from .shapes import check_shape
from .stylegan2.config import GeneratorConfig
from .stylegan2.generator import Generator

Published = tuple["E4eEncoder | None", "Generator | None", Tensor]


def from_published(content: Any, *, name: str) -> Published:
    """What a published pickle holds: encoder (or None), generator (or None), average code (S, D).

    The weights are the pickle's own tensors, their numbers not read yet: see `checkpoint.settle`.

    Args:
        content: what `load_pickle` returned.
        name: the file's name, for errors.

    Raises:
        PIDiffError: another kind of file, or keys and shapes that do not fit.
    """
    if isinstance(content, Mapping):
        for part in (content, content.get("state_dict"), content.get("g_ema")):
            if isinstance(part, Mapping) and (odd := [key for key in part if not isinstance(key, str)]):
                raise PIDiffError(
                    f"{name} is no e4e encoder and no StyleGAN2 generator: some keys are no names: {listed(odd)}."
                )
        state = content.get("state_dict")
        if isinstance(state, Mapping) and any(key.startswith("encoder.") for key in state):
            return _from_e4e(content, state, name)
        if isinstance(content.get("g_ema"), Mapping):
            return _from_generator(content["g_ema"], content.get("latent_avg"), name)
        if "conv1.conv.modulation.weight" in content:
            return _from_generator(content, None, name)
        if {"w_proj", "wplus_adapter"} & set(content):
            raise PIDiffError(f"{name} is a W+ Adapter, not an encoder or a generator. Choose it as the adapter.")
        raise PIDiffError(f"{name} is no e4e encoder and no StyleGAN2 generator: its keys are {listed(content)}.")
    raise PIDiffError(f"{name} is no e4e encoder and no StyleGAN2 generator: it holds a {type(content).__name__}.")


def encoder_config_of(state: Mapping[str, Tensor], *, name: str) -> EncoderConfig:
    """The sizes of an e4e encoder, from its weights."""
    try:
        depths = [
            state[f"body.{index}.res_layer.1.weight"].shape[0] for index in range(_count(state, r"body\.(\d+)\."))
        ]
        groups = [(depth, len(list(units))) for depth, units in groupby(depths)]
        (depth1, count1), (depth2, count2), (depth3, count3), (depth4, count4) = groups
        num_styles = _count(state, r"styles\.(\d+)\.")
        convolutions = Counter(
            found[1] for key in state if (found := re.match(r"styles\.(\d+)\.convs\.\d+\.weight", key))
        )
        convs = Counter(convolutions.values())
        halvings = min(convs)
        return EncoderConfig(
            image_size=16 * 2**halvings,
            num_styles=num_styles,
            width=state["styles.0.linear.weight"].shape[0],
            stem_channels=state["input_layer.0.weight"].shape[0],
            units=(count1, count2, count3, count4),
            depths=(depth1, depth2, depth3, depth4),
            head_channels=state["styles.0.convs.0.weight"].shape[0],
            heads=(convs[halvings], convs[halvings + 1], convs[halvings + 2]),
            se_reduction=depths[0] // state["body.0.res_layer.5.fc1.weight"].shape[0],
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise PIDiffError(f"{name} is no e4e encoder of the IR-SE kind: {error}.") from error


def generator_config_of(state: Mapping[str, Tensor], *, name: str) -> GeneratorConfig:
    """The sizes of a StyleGAN2 generator, from its weights."""
    try:
        levels = _count(state, r"convs\.(\d+)\.") // 2
        upsampled = [state[f"convs.{2 * level}.conv.weight"].shape[1] for level in range(levels)]
        return GeneratorConfig(
            size=4 * 2**levels,
            width=state["conv1.conv.modulation.weight"].shape[1],
            z_dim=state["style.1.weight"].shape[1],
            mapping_layers=_count(state, r"style\.(\d+)\.") - 1,  # number 0 is the normalisation
            channels=(state["conv1.conv.weight"].shape[1], *upsampled),
        )
    except (KeyError, IndexError, AttributeError) as error:
        raise PIDiffError(f"{name} is no StyleGAN2 generator of the known layout: {error} is missing in it.") from error


def average_of(latent_avg: Any, *, num_styles: int, width: int, name: str) -> Tensor:
    """The average code as (S, D), from (S, D), (1, D) or (D,)."""
    if not isinstance(latent_avg, Tensor):
        raise PIDiffError(f"{name} has no average code ('latent_avg'). Use the file as its authors published it.")
    latent_avg = latent_avg.detach().float().cpu()
    if latent_avg.ndim == 1 or latent_avg.shape[0] == 1:
        latent_avg = latent_avg.reshape(1, -1).expand(num_styles, -1)
    check_shape(latent_avg, f"{num_styles} {width}", name=f"latent_avg in {name}")
    return latent_avg.clone()


def _from_e4e(content: Mapping[str, Any], state: Mapping[str, Tensor], name: str) -> Published:
    if unknown := sorted({key.split(".")[0] for key in state} - {"encoder", "decoder"}):
        raise PIDiffError(f"{name} should hold encoder.* and decoder.*, but there is also {listed(unknown)}.")
    weights = strip_prefix(state, "encoder.")
    config = encoder_config_of(weights, name=name)
    with torch.device("meta"):
        encoder = E4eEncoder(config)
    load_strict(encoder, weights, name=f"the e4e encoder in {name}", read_numbers=False)
    average = average_of(content.get("latent_avg"), num_styles=config.num_styles, width=config.width, name=name)
    options = content.get("opts")
    options = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
    if options.get("start_from_latent_avg", True) is False:
        _make_relative(encoder, average)
    generator = None
    if decoder := strip_prefix(state, "decoder."):
        generator, _, _ = _generator(decoder, name)
        if (generator.config.num_styles, generator.config.width) != (config.num_styles, config.width):
            raise PIDiffError(
                f"{name}: its encoder gives {config.num_styles} styles, its decoder takes another number."
            )
    return encoder, generator, average


def _from_generator(state: Mapping[str, Tensor], latent_avg: Any, name: str) -> Published:
    generator, num_styles, width = _generator(state, name)
    if latent_avg is None:
        return None, generator, generator.average(rng=torch.Generator().manual_seed(0))
    return None, generator, average_of(latent_avg, num_styles=num_styles, width=width, name=name)


def _generator(state: Mapping[str, Tensor], name: str) -> tuple[Generator, int, int]:
    config = generator_config_of(state, name=name)
    with torch.device("meta"):
        generator = Generator(config)
    load_strict(generator, state, name=f"the StyleGAN2 generator in {name}", read_numbers=False)
    return generator, config.num_styles, config.width


def _make_relative(encoder: E4eEncoder, average: Tensor) -> None:
    """Turn an encoder of absolute codes into one of offsets: the average moves into the biases of its heads."""
    steps = torch.cat([average[:1], average[1:] - average[:1]])  # every style is predicted relative to the first
    with torch.no_grad():
        for style, step in enumerate(steps):
            encoder.get_parameter(f"styles.{style}.linear.bias").sub_(step)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number at this place of the keys."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)
