"""The networks of one W+ space as a file: encoder, generator, average code, directions.

Our own format is one safetensors file; published pickles are read as they are (see `published`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import file_kind, load_checkpoint, load_pickle, load_strict, save_checkpoint, settle, strip_prefix
from .e4e.config import EncoderConfig
from .e4e.encoder import E4eEncoder
from .errors import PIDiffError
from .published import average_of, from_published
from .stylegan2.config import GeneratorConfig
from .stylegan2.generator import Generator
from .wplus import WPlusSpace

KIND = "networks"


@dataclass(frozen=True, eq=False)
class Networks:
    """Everything that belongs to one W+ space, on the CPU."""

    space: WPlusSpace
    latent_avg: Tensor  # (S, D)
    encoder: E4eEncoder | None = None
    generator: Generator | None = None
    directions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (S, D) or (1, D)


def save_networks(path: str | os.PathLike[str], networks: Networks, *, dtype: torch.dtype = torch.float32) -> None:
    """Write one safetensors file.

    Args:
        path: where to.
        networks: what to write.
        dtype: type of the stored weights (fp16 halves the file); statistics, biases and the average stay float32.
    """
    tensors = {"latent_avg": networks.latent_avg.float()}
    config: dict[str, object] = {"kind": KIND, "space": asdict(networks.space)}
    for name, network in (("encoder", networks.encoder), ("generator", networks.generator)):
        if network is not None:
            config[name] = network.config.to_dict()
            for key, tensor in network.state_dict().items():
                is_weight = tensor.is_floating_point() and tensor.ndim >= 2
                tensors[f"{name}.{key}"] = tensor.to(dtype) if is_weight else tensor
    tensors |= {f"directions.{name}": vector.float() for name, vector in networks.directions.items()}
    save_checkpoint(path, tensors, config)


def load_networks(path: str | os.PathLike[str]) -> Networks:
    """Read a file of `save_networks`, an e4e checkpoint, or a StyleGAN2 generator; the content decides which.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    networks = open_networks(path)
    for part, network in (("encoder", networks.encoder), ("generator", networks.generator)):
        if network is not None:
            settle(network, name=f"the {part} in {path}")
    return networks


def open_networks(path: str | os.PathLike[str]) -> Networks:
    """`load_networks` without reading the weights: keys and shapes are checked, the numbers stay in the mapped file.

    A gigabyte is open in a fraction of a second. Every network needs `settle` before it is used.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    path = Path(path)
    if file_kind(path) == "safetensors":
        return _load_own(path)
    encoder, generator, latent_avg = from_published(load_pickle(path), name=path.name)
    num_styles, width = latent_avg.shape
    space = WPlusSpace(f"ffhq-{2 ** (num_styles // 2 + 1)}", num_styles, width)
    return Networks(space, latent_avg, encoder, generator)


def _load_own(path: Path) -> Networks:
    tensors, config = load_checkpoint(path)
    if config.get("kind") != KIND:
        raise PIDiffError(
            f"{path} holds '{config.get('kind')}', not an encoder or a generator. Choose it where it belongs."
        )
    try:
        space = WPlusSpace(**config["space"])
        encoder_config = EncoderConfig.from_dict(config["encoder"]) if "encoder" in config else None
        generator_config = GeneratorConfig.from_dict(config["generator"]) if "generator" in config else None
    except (KeyError, TypeError) as error:
        raise PIDiffError(f"The configuration in {path} is incomplete: {error}. Save it again.") from error
    if unknown := sorted({key.split(".")[0] for key in tensors} - {"latent_avg", "encoder", "generator", "directions"}):
        raise PIDiffError(f"{path} has tensors that belong to nothing: {', '.join(unknown)}.")
    with torch.device("meta"):
        encoder = E4eEncoder(encoder_config) if encoder_config else None
        generator = Generator(generator_config) if generator_config else None
    for name, network in (("encoder", encoder), ("generator", generator)):
        if network is not None:
            state = strip_prefix(tensors, f"{name}.")
            load_strict(network, state, name=f"the {name} in {path}", read_numbers=False)
    average = average_of(tensors.get("latent_avg"), num_styles=space.num_styles, width=space.width, name=str(path))
    return Networks(space, average, encoder, generator, _directions(tensors))


def _directions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies: nothing but the networks may lie in the mapped file."""
    return {name: vector.clone() for name, vector in strip_prefix(tensors, "directions.").items()}
