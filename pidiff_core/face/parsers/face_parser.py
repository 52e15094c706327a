"""The person in an aligned crop, pixel by pixel, by a face parser whose weights file the user has.

W+ Adapter's preparation keeps every class but the background and the clothes: skin, features, ears, neck, hair, hat
and jewels stay. So does this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import PIDiffError, listed
from ...files.cache import shared_file
from ...files.lazy import LazyNetwork, Place, no_device_management
from ...files.pickles import load_pickle
from ...files.weights import load_strict
from ...images import check_image_bchw, resize_bchw
from .bisenet import BiSeNet
from .parsenet import ParseNet

# The names under which the files are published; the type is detected from the contents.
PARSER_FILES = ("parsing_parsenet.pth", "parse_multi_iter_90000.pth", "parsing_bisenet.pth", "79999_iter.pth")
PARSER_LINKS = (
    "parsing_parsenet.pth or parsing_bisenet.pth from github.com/xinntao/facexlib (releases), 79999_iter.pth from "
    "github.com/zllrunning/face-parsing.PyTorch, or parse_multi_iter_90000.pth from github.com/chaofengc/PSFRGAN "
    "(releases)"
)
_SIZE_PX = 512  # what both networks were trained on


@dataclass(frozen=True)
class _Kind:
    """One published network: how to know its files, how it wants its pictures, what its classes are."""

    name: str
    signature: frozenset[str]
    network: type[nn.Module]
    mean: tuple[float, ...]  # of pixels in [0, 1]
    std: tuple[float, ...]
    left_out: tuple[int, ...]  # the background and the clothes
    eyes: tuple[int, ...]
    face: tuple[int, ...]  # skin, brows, eyes, glasses, nose, mouth and lips; no ears, neck or hair


_KINDS = (
    _Kind(
        "bisenet",
        frozenset({"cp.resnet.conv1.weight", "ffm.convblk.conv.weight"}),
        BiSeNet,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        left_out=(0, 16),
        eyes=(4, 5),
        face=(1, 2, 3, 4, 5, 6, 10, 11, 12, 13),
    ),
    _Kind(
        "parsenet",
        frozenset({"encoder.0.conv2d.weight", "out_mask_conv.conv2d.weight"}),
        ParseNet,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        left_out=(0, 18),
        eyes=(4, 5),
        face=(1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
    ),
)


class FaceParser:
    """A face parser from a published file, told by its keys and loaded strictly.

    Args:
        weights_path: one of PARSER_FILES, under any name.
        place: hands the network to the host's model management.

    Raises:
        PIDiffError: the file cannot be read, or it is not a face parser that PIDiff knows.
    """

    def __init__(self, weights_path: str | os.PathLike[str], *, place: Place = no_device_management) -> None:
        with torch.inference_mode(False):  # tensors of that mode could not become weights
            state = load_pickle(weights_path)
        kinds = [kind for kind in _KINDS if isinstance(state, Mapping) and kind.signature <= set(state)]
        if not kinds:
            held = listed(state, most=4) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise PIDiffError(
                f"{weights_path} is not a face parser that PIDiff knows: it holds {held}. Expected: {PARSER_LINKS}."
            )
        self.kind = kinds[0]
        with torch.inference_mode(False):
            name = f"the face parser in {Path(weights_path).name}"
            with torch.device("meta"):  # the file has all the numbers: none are drawn
                network = self.kind.network()
            load_strict(network, state, name=name, dtype=torch.float32)
            network.eval().requires_grad_(False)
        self.network = LazyNetwork(lambda: network, place=place)

    @property
    def name(self) -> str:
        """ "bisenet" or "parsenet"."""
        return self.kind.name

    def person_mask(self, crops_bchw: Tensor) -> Tensor:
        """Aligned crops (B, 3, H, H) in [-1, 1] -> a hard mask of the person (B, 1, 512, 512), 1 inside."""
        return 1.0 - self._mask(self._classes(crops_bchw), self.kind.left_out)

    def eyes_and_face(self, crops_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned crops (B, 3, H, H) in [-1, 1] -> hard masks (B, 1, 512, 512) of the eyes, and of the face.

        The face is all but hair, ears and neck.
        """
        classes = self._classes(crops_bchw)
        return self._mask(classes, self.kind.eyes), self._mask(classes, self.kind.face)

    def _classes(self, crops_bchw: Tensor) -> Tensor:
        """(B, 1, 512, 512), the class of each pixel."""
        check_image_bchw(crops_bchw, name="the aligned crop")
        network = self.network.ready()
        weight = next(network.parameters())
        mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (self.kind.mean, self.kind.std))
        pictures = resize_bchw(crops_bchw.float().cpu(), _SIZE_PX) * 0.5 + 0.5
        with torch.no_grad():
            return network(((pictures - mean) / std).to(weight)).argmax(dim=1, keepdim=True).cpu()

    @staticmethod
    def _mask(classes: Tensor, chosen: tuple[int, ...]) -> Tensor:
        return torch.isin(classes, torch.tensor(chosen)).float()


def load_parser(weights_path: str, *, place: Place = no_device_management) -> FaceParser:
    """The parser of this file: one for all callers until the file changes, for as long as any of them holds it."""
    return shared_file(weights_path, "face parser", lambda path: FaceParser(path, place=place))
