"""The networks of one W+ space as a file: encoder, generator, average code, directions.

Our own format is one safetensors file; published pickles are read as they are (see `foreign.e4e_stylegan2`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..e4e.config import EncoderConfig
from ..e4e.encoder import E4eEncoder
from ..errors import PIDiffError, listed
from ..model import PIDiffModel
from ..stylegan2.config import GeneratorConfig
from ..stylegan2.generator import Generator
from ..wplus.codes import WPlusSpace
from .cache import file_identity
from .container import open_container, write_container
from .foreign.e4e_stylegan2 import average_of, read_e4e_or_stylegan2
from .lazy import LazyNetwork, Place, no_device_management
from .pickles import load_pickle
from .recognise import file_kind
from .weights import check_weights, materialize

PARTS = ("encoder", "generator")
_Reader = Callable[[str], Callable[[str], Tensor]]
"""A part's name -> its tensors by key, read from the file."""


def save_networks(path: str | os.PathLike[str], model: PIDiffModel, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model's encoder, generator, average code and directions to one safetensors file.

    Args:
        path: where to; an existing file is replaced only once the new one is whole.
        model: its encoder and generator are modules, or None. Its adapter is not written: see `save_adapter`.
        dtype: type of the stored weights (fp16 halves the file); statistics, biases and the average stay float32.

    Raises:
        PIDiffError: the file cannot be written.
    """
    tensors = {"latent_avg": model.require_average().float()}
    config: dict[str, object] = {"space": asdict(model.space)}
    for part in PARTS:
        network = getattr(model, part)
        if network is not None:
            config[part] = network.config.to_dict()
            for key, tensor in network.state_dict().items():
                is_weight = tensor.is_floating_point() and tensor.ndim >= 2
                tensors[f"{part}.{key}"] = tensor.to(dtype) if is_weight else tensor
    tensors |= {f"directions.{name}": vector.float() for name, vector in model.directions.items()}
    write_container(path, tensors, kind="networks", config=config)


def load_networks(path: str | os.PathLike[str]) -> PIDiffModel:
    """Read a file of `save_networks`, an e4e checkpoint, or a StyleGAN2 generator; the content decides which.

    Raises:
        PIDiffError: another kind of file, weights that do not fit, or a damaged or hostile file.
    """
    path = Path(path)
    model, read = _opened(path)
    for part in PARTS:
        if (network := getattr(model, part)) is not None:
            materialize(network, read(part), name=f"the {part} in {path}")
    return model


def open_networks(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, place: Place = no_device_management
) -> PIDiffModel:
    """`load_networks` without the weights: keys and shapes are checked, a network is read when it is first used.

    A gigabyte is open in a fraction of a second.

    Args:
        path: the file.
        dtype: data type of the networks' weights.
        place: brings them to their device.

    Raises:
        PIDiffError: as `load_networks`; from the networks themselves if the file has changed since, or if its weights
            are not finite.
    """
    path = Path(path)
    identity = file_identity(path)
    model, read = _opened(path)

    def lazy(part: str, network: nn.Module) -> LazyNetwork:
        def read_network() -> nn.Module:
            try:
                unchanged = file_identity(path) == identity
            except PIDiffError:
                unchanged = False
            if not unchanged:
                raise PIDiffError(f"{path.name} has changed since Load PIDiff Model opened it. Queue again.")
            return materialize(network, read(part), dtype=dtype, name=f"the {part} in {path.name}")

        return LazyNetwork(read_network, place=place)

    encoder, generator = (None if (network := getattr(model, part)) is None else lazy(part, network) for part in PARTS)
    return dataclasses.replace(model, encoder=encoder, generator=generator)


def _opened(path: Path) -> tuple[PIDiffModel, _Reader]:
    """The file's model, its networks on the meta device and known to fit the file, and what reads them."""
    if file_kind(path) == "safetensors":
        return _opened_container(path)
    names = {"encoder": f"the e4e encoder in {path.name}", "generator": f"the StyleGAN2 generator in {path.name}"}
    published = read_e4e_or_stylegan2(load_pickle(path, only_shapes=True), name=path.name)
    networks = _without_memory(published.sizes)
    for part, network in networks.items():
        check_weights(network, published.weights[part], name=names[part])
    average = published.latent_avg
    if average is None:
        generator = _without_memory(published.sizes)["generator"]
        materialize(generator, published.weights["generator"].__getitem__, name=names["generator"])
        average = generator.average(rng=torch.Generator().manual_seed(0))
    num_styles, width = average.shape
    space = WPlusSpace(f"ffhq-{2 ** (num_styles // 2 + 1)}", num_styles, width)

    def read(part: str) -> Callable[[str], Tensor]:
        weights = read_e4e_or_stylegan2(load_pickle(path), name=path.name).weights[part]
        check_weights(networks[part], weights, name=names[part])
        return weights.pop  # what has been taken is no longer held here

    return _model(networks, space=space, latent_avg=average, source=path.name), read


def _opened_container(path: Path) -> tuple[PIDiffModel, _Reader]:
    file, config = open_container(path, kind="networks")
    try:
        space = WPlusSpace(**config["space"])
        sizes: dict[str, EncoderConfig | GeneratorConfig] = {}
        if "encoder" in config:
            sizes["encoder"] = EncoderConfig.from_dict(config["encoder"])
        if "generator" in config:
            sizes["generator"] = GeneratorConfig.from_dict(config["generator"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PIDiffError(f"The configuration in {path} is incomplete: {error}. Save it again.") from error
    for part in sizes.values():
        if (part.num_styles, part.width) != (space.num_styles, space.width):
            raise PIDiffError(
                f"{path} is of {space}, but it holds a network of {part.num_styles} styles of {part.width}. "
                "Download or save it again."
            )
    known = {"latent_avg", "directions", *sizes}
    if unknown := sorted({key.split(".")[0] for key in file.shapes()} - known):
        raise PIDiffError(f"{path} has unexpected tensors: {listed(unknown)}.")
    networks = _without_memory(sizes)
    for name, network in networks.items():
        check_weights(network, file.shapes(f"{name}."), name=f"the {name} in {path}")
    average = file.read("latent_avg") if "latent_avg" in file.shapes() else None
    latent_avg = average_of(average, num_styles=space.num_styles, width=space.width, name=str(path))
    model = _model(networks, space=space, latent_avg=latent_avg, source=path.name)
    model = dataclasses.replace(model, directions=file.tensors("directions."))
    return model, lambda part: lambda key: file.read(f"{part}.{key}")


def _without_memory(sizes: Mapping[str, EncoderConfig | GeneratorConfig]) -> dict[str, Any]:
    """Networks of these sizes on the meta device."""
    with torch.device("meta"):
        return {
            part: E4eEncoder(config) if isinstance(config, EncoderConfig) else Generator(config)
            for part, config in sizes.items()
        }


def _model(networks: Mapping[str, Any], *, space: WPlusSpace, latent_avg: Tensor, source: str) -> PIDiffModel:
    encoder = networks.get("encoder")
    crop_size = PIDiffModel.crop_size if encoder is None else encoder.config.image_size
    return PIDiffModel(space, latent_avg, **networks, source=source, crop_size=crop_size)
