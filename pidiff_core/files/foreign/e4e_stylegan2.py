"""Published checkpoints of the encoder and the generator, recognised by their keys and loaded strictly.

- e4e (`e4e_ffhq_encode.pt`): `state_dict` with `encoder.*` and `decoder.*`, `latent_avg`, `opts`.
- StyleGAN2 in its widespread PyTorch layout: `g_ema` (and `latent_avg`), or the bare weights.

The sizes are read off the shapes, so that spaces of 256, 512 and 1024 px load alike.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...e4e.config import EncoderConfig
from ...errors import PIDiffError, listed, printable, quoted
from ...shapes import check_shape
from ...stylegan2.config import GeneratorConfig
from ..weights import strip_prefix

# What pSp's training options hold and e4e's do not, and the other way round (the two share all keys of the weights).
_PSP_OPTIONS = {"learn_in_w", "output_size", "input_nc", "label_nc"}
_E4E_OPTIONS = {"progressive_steps", "progressive_start", "delta_norm", "w_discriminator_lambda", "use_w_pool"}


@dataclass(frozen=True)
class PublishedNetworks:
    """What a published file holds. The weights are not compared with the sizes yet.

    Attributes:
        sizes: of the "encoder", the "generator", or both.
        weights: the file's own tensors by part and key.
        latent_avg: the average code (S, D), or None if it has to be computed with the generator's mapping network.
    """

    sizes: Mapping[str, EncoderConfig | GeneratorConfig]
    weights: Mapping[str, dict[str, Tensor]]
    latent_avg: Tensor | None


def read_e4e_or_stylegan2(content: Any, *, name: str) -> PublishedNetworks:
    """An encoder's or a generator's published file.

    Args:
        content: what `load_pickle` returned.
        name: the file's name, for errors.

    Raises:
        PIDiffError: another kind of file, or sizes that do not go together.
    """
    if isinstance(content, Mapping):
        for part in (content, content.get("state_dict"), content.get("g_ema")):
            if isinstance(part, Mapping) and (odd := [key for key in part if not isinstance(key, str)]):
                raise PIDiffError(
                    f"{name} is not an e4e encoder or StyleGAN2 generator: some keys are not names: {listed(odd)}."
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
        raise PIDiffError(f"{name} is not an e4e encoder or StyleGAN2 generator: its keys are {listed(content)}.")
    raise PIDiffError(f"{name} is not an e4e encoder or StyleGAN2 generator: it holds a {type(content).__name__}.")


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
        raise PIDiffError(
            f"{name} is not an e4e encoder of the IR-SE kind: {error} is missing or odd in it."
        ) from error


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
        raise PIDiffError(
            f"{name} is not a StyleGAN2 generator of the known layout: {error} is missing in it."
        ) from error


def average_of(latent_avg: Any, *, num_styles: int, width: int, name: str) -> Tensor:
    """The average code as (S, D), from (S, D), (1, D) or (D,)."""
    if not isinstance(latent_avg, Tensor):
        raise PIDiffError(f"{name} has no average code ('latent_avg'). Use the file as its authors published it.")
    latent_avg = latent_avg.detach().float().cpu()
    if latent_avg.ndim == 1 or (latent_avg.ndim == 2 and len(latent_avg) == 1):
        latent_avg = latent_avg.reshape(1, -1).expand(num_styles, -1)
    check_shape(latent_avg, f"{num_styles} {width}", name=f"latent_avg in {name}")
    return latent_avg.clone()


def _from_e4e(content: Mapping[str, Any], state: Mapping[str, Tensor], name: str) -> PublishedNetworks:
    if unknown := sorted({key.split(".")[0] for key in state} - {"encoder", "decoder"}):
        raise PIDiffError(f"{name} should hold encoder.* and decoder.*, but there is also {listed(unknown)}.")
    options = content.get("opts")
    options = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
    _refuse_psp(options, name)
    weights = {"encoder": strip_prefix(state, "encoder.")}
    encoder = encoder_config_of(weights["encoder"], name=name)
    average = average_of(content.get("latent_avg"), num_styles=encoder.num_styles, width=encoder.width, name=name)
    if options.get("start_from_latent_avg", True) is False:
        weights["encoder"] |= _relative(weights["encoder"], average)
    sizes: dict[str, EncoderConfig | GeneratorConfig] = {"encoder": encoder}
    if decoder := strip_prefix(state, "decoder."):
        weights["generator"] = decoder
        generator = sizes["generator"] = generator_config_of(decoder, name=name)
        if (generator.num_styles, generator.width) != (encoder.num_styles, encoder.width):
            raise PIDiffError(
                f"{name}: its encoder gives {encoder.num_styles} styles, its decoder takes another number."
            )
    return PublishedNetworks(sizes, weights, average)


def _refuse_psp(options: Mapping[Any, Any], name: str) -> None:
    """PIDiffError for pSp's encoder, which has e4e's keys and shapes and another meaning.

    Every head of pSp gives a whole code (Richardson et al., arXiv 2008.00951); e4e's later heads give differences to
    the first one's (Tov et al., arXiv 2102.02766). Files of both hold their training options.
    """
    kind = options.get("encoder_type")
    keys = {key for key in options if isinstance(key, str)}
    if kind == "Encoder4Editing" or (kind is None and keys & _E4E_OPTIONS):
        return
    if kind is None and not keys & _PSP_OPTIONS:
        logging.warning(
            "PIDiff: %s does not name its encoder: e4e and pSp have the same weights by name. It is read "
            "as e4e. If previews of its codes look wrong, it is pSp: use e4e_ffhq_encode.pt.",
            printable(name),
        )
        return
    found = "a pSp encoder (its training options say so)" if kind is None else f"an encoder of the type {quoted(kind)}"
    raise PIDiffError(
        f"{name} holds {found}, but PIDiff reads e4e encoders ('Encoder4Editing'). The two have the same weights by "
        "name, but not the same meaning. Use e4e_ffhq_encode.pt; the help page of Load PIDiff Model has the link."
    )


def _from_generator(state: Mapping[str, Tensor], latent_avg: Any, name: str) -> PublishedNetworks:
    sizes = generator_config_of(state, name=name)
    if latent_avg is not None:
        latent_avg = average_of(latent_avg, num_styles=sizes.num_styles, width=sizes.width, name=name)
    return PublishedNetworks({"generator": sizes}, {"generator": dict(state)}, latent_avg)


def _relative(weights: Mapping[str, Tensor], average: Tensor) -> dict[str, Tensor]:
    """The biases with which an encoder of absolute codes gives offsets: the average is taken off its heads.

    A bias that is missing or has another shape is left to `check_weights`.
    """
    steps = torch.cat([average[:1], average[1:] - average[:1]])  # every style is predicted relative to the first
    biases = {f"styles.{style}.linear.bias": step for style, step in enumerate(steps)}
    return {
        key: weights[key].float() - step
        for key, step in biases.items()
        if getattr(weights.get(key), "shape", None) == step.shape
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number at this place of the keys."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)
