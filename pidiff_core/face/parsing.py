"""The person in an aligned crop, pixel by pixel, by a face parser whose weights file the user has.

W+ Adapter's preparation keeps every class but the background and the clothes: skin, features, ears, neck, hair, hat
and jewels stay. So does this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..checkpoint import load_pickle, load_strict, settle
from ..errors import PIDiffError
from ..images import check_image_bchw, resize_bchw
from ..lazy import LazyNetwork, Place, stay
from .bisenet import BiSeNet
from .file_version import file_version
from .parsenet import ParseNet

# The names under which the files are published; what is in a file decides how it is read.
PARSER_FILES = ("parsing_parsenet.pth", "parse_multi_iter_90000.pth", "parsing_bisenet.pth", "79999_iter.pth")
PARSER_LINKS = (
    "parsing_parsenet.pth or parsing_bisenet.pth from github.com/xinntao/facexlib (releases), 79999_iter.pth from "
    "github.com/zllrunning/face-parsing.PyTorch, or parse_multi_iter_90000.pth from github.com/chaofengc/PSFRGAN "
    "(releases)"
)
_SIZE_PX = 512  # what both networks were trained on


@dataclass(frozen=True)
class _Kind:
    """One published network: how to know its files, how it wants its pictures, what it calls no person."""

    name: str
    signature: frozenset[str]
    network: type[nn.Module]
    mean: tuple[float, ...]  # of pixels in [0, 1]
    std: tuple[float, ...]
    left_out: tuple[int, ...]  # the background and the clothes


_KINDS = (
    _Kind(
        "bisenet",
        frozenset({"cp.resnet.conv1.weight", "ffm.convblk.conv.weight"}),
        BiSeNet,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        (0, 16),
    ),
    _Kind(
        "parsenet",
        frozenset({"encoder.0.conv2d.weight", "out_mask_conv.conv2d.weight"}),
        ParseNet,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        (0, 18),
    ),
)


class FaceParser:
    """A face parser from a published file, told by its keys and loaded strictly.

    Args:
        weights_path: one of PARSER_FILES, under any name.
        place: where the host's model management takes over.

    Raises:
        PIDiffError: the file cannot be read, or it is no face parser that is known here.
    """

    def __init__(self, weights_path: str | os.PathLike[str], *, place: Place = stay) -> None:
        with torch.inference_mode(False):  # tensors of that mode could not become weights
            state = load_pickle(weights_path)
        kinds = [kind for kind in _KINDS if isinstance(state, Mapping) and kind.signature <= set(state)]
        if not kinds:
            held = ", ".join(map(str, list(state)[:4])) if isinstance(state, Mapping) else type(state).__name__
            raise PIDiffError(
                f"{weights_path} is no face parser that is known here (it holds {held} ...). Expected is "
                f"{PARSER_LINKS}."
            )
        self.kind = kinds[0]
        with torch.inference_mode(False):
            name = f"the face parser in {Path(weights_path).name}"
            with torch.device("meta"):  # the file has all the numbers: none are drawn
                network = self.kind.network()
            load_strict(network, state, name=name, read_numbers=False)
            settle(network, name=name)
        self.network = LazyNetwork(lambda: network, place=place)

    @property
    def name(self) -> str:
        """ "bisenet" or "parsenet"."""
        return self.kind.name

    def person_mask(self, crops_bchw: Tensor) -> Tensor:
        """Aligned crops (B, 3, H, H) in [-1, 1] -> a hard mask of the person (B, 1, 512, 512), 1 inside."""
        check_image_bchw(crops_bchw, name="the aligned crop")
        network = self.network.ready()
        weight = next(network.parameters())
        mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (self.kind.mean, self.kind.std))
        pictures = resize_bchw(crops_bchw.float().cpu(), _SIZE_PX) * 0.5 + 0.5
        with torch.no_grad():
            classes = network(((pictures - mean) / std).to(weight)).argmax(dim=1, keepdim=True).cpu()
        outside = torch.isin(classes, torch.tensor(self.kind.left_out))
        return (~outside).float()


def load_parser(weights_path: str, *, place: Place = stay) -> FaceParser:
    """The parser of this file: everybody gets the same one until the file changes, as long as anybody holds it."""
    key = (weights_path, *file_version(weights_path))
    parser = _parsers.get(key)
    if parser is None:
        parser = _parsers[key] = FaceParser(weights_path, place=place)
    return parser


_parsers: WeakValueDictionary[tuple[str, int, int], FaceParser] = WeakValueDictionary()
