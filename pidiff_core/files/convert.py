"""Turn published checkpoints into one safetensors file of PIDiff's: smaller, quicker to open, no pickle.

python -m pidiff_core.files.convert e4e_ffhq_encode.pt e4e.safetensors --fp16
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import PIDiffError
from ..model import PIDiffModel
from .loading import guarded
from .networks import PARTS, load_networks, save_networks

_HALF_ERROR = 2.0**-10  # relative, of a weight rounded to half precision


def convert(source: Path, target: Path, *, fp16: bool = False, generator: bool = True) -> list[str]:
    """Convert a checkpoint, read the result back and compare it; returns the report, line by line.

    Raises:
        PIDiffError: a source that cannot be read, a target that cannot be written, or a copy that differs.
    """
    if target.suffix != ".safetensors":
        raise PIDiffError(f"The target {target} should end in .safetensors.")
    networks = guarded(source, load_networks)
    if not generator:
        networks = dataclasses.replace(networks, generator=None)
    save_networks(target, networks, dtype=torch.float16 if fp16 else torch.float32)
    worst = _largest_difference(networks, load_networks(target))
    if worst > (_HALF_ERROR if fp16 else 0.0):
        target.unlink()
        raise PIDiffError(
            f"The copy of {source} differs from it by {worst:.2e} relative to the weights; it was deleted."
        )
    report = [f"{source} -> {target}", f"space      {networks.space}"]
    for part in PARTS:
        network = getattr(networks, part)
        report.append(f"{part:<10} {f'{_parameters(network):,} parameters' if network else 'none'}")
    report.append(f"size       {source.stat().st_size / 1e6:.1f} MB -> {target.stat().st_size / 1e6:.1f} MB")
    report.append(f"round trip largest difference {worst:.1e} of a weight's scale" if fp16 else "round trip bit-equal")
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the copy is good."""
    parser = argparse.ArgumentParser(prog="python -m pidiff_core.files.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="e4e_ffhq_encode.pt, a StyleGAN2 generator, or a PIDiff file")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--fp16", action="store_true", help="store weights in half precision: half the size")
    parser.add_argument("--no-generator", action="store_true", help="leave the generator out (no previews)")
    options = parser.parse_args(arguments)
    try:
        report = convert(options.source, options.target, fp16=options.fp16, generator=not options.no_generator)
    except PIDiffError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(report))
    return 0


def _tensors(networks: PIDiffModel) -> dict[str, Tensor]:
    tensors = {"latent_avg": networks.require_average()}
    for part in PARTS:
        network = getattr(networks, part)
        if network is not None:
            tensors |= {f"{part}.{key}": tensor for key, tensor in network.state_dict().items()}
    return tensors


def _largest_difference(before: PIDiffModel, after: PIDiffModel) -> float:
    """The largest difference of any number, relative to the largest of its tensor; infinite where keys differ."""
    ours, theirs = _tensors(before), _tensors(after)
    if ours.keys() != theirs.keys():
        return float("inf")
    differences = [
        float((tensor.double() - theirs[name].double()).abs().max() / tensor.double().abs().max().clamp_min(1e-12))
        for name, tensor in ours.items()
    ]
    return max(differences)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    raise SystemExit(main())
