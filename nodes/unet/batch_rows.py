"""Which latents of a run the rows of one UNet evaluation are, as far as the host and other packs tell.

A sampler may evaluate a part of its batch at a time, or cut pictures into tiles. Each function below reads one source
from the host's transformer_options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .applied_identity import Area

_MOST_PICTURES = 64  # of a batch that a latent is looked for in
UNKNOWN = (
    "PIDiff cannot tell which picture of the batch, or which part of a picture, another node computes. Masks, "
    "'left to right' and batches of several people may act on the wrong picture. One person without a mask is right."
)


def rows_of(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Numbers of the latents that each chunk of the batch is computed on; None: unknown."""
    for read in (_context_window, _animatediff):
        if (rows := read(options)) is not None:
            return rows
    return None


def part_of(options: Mapping[str, Any], run_shape: Sequence[int]) -> Area | None:
    """The part of the picture that is computed, if it is known; None: the whole picture, or unknown.

    ComfyUI's Context Windows nodes cut pictures along `dim` 2 (height) or 3 (width).

    Args:
        options: the host's transformer_options.
        run_shape: of the latents of the run (B, C, H, W), or empty if unknown.
    """
    window = options.get("context_window")
    dim = getattr(window, "dim", 0)
    if dim not in (2, 3) or len(run_shape) != 4:
        return None
    indices = _indices(window)
    first, last = min(indices), max(indices)
    if indices != tuple(range(first, last + 1)):  # closed loops and strides are no rectangle
        return None
    start, end = first / run_shape[dim], (last + 1) / run_shape[dim]
    return (start, 0.0, end, 1.0) if dim == 2 else (0.0, start, 1.0, end)


def pictures_of_noise(noise_bchw: Tensor, seed: int | None) -> tuple[int, ...] | None:
    """Which pictures of a batch the latents of a run were (LatentFromBatch and its relatives); None: all, in order.

    The host keeps these numbers with the latent and gives them to its noise alone: the latent that was picture k gets
    the k-th noise of the seed. So the noise tells k, and a noise of another kind tells nothing.

    Args:
        noise_bchw: noise of the run, before any scaling.
        seed: its seed.
    """
    noise = noise_bchw.detach().cpu()
    if seed is None or torch.equal(noise, _drawn(noise.shape, noise.dtype, torch.Generator().manual_seed(seed))):
        return None
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, int] = {}  # row of the run -> picture
    for picture in range(_MOST_PICTURES):
        one = _drawn((1, *noise.shape[1:]), noise.dtype, generator)[0]
        for row in range(len(noise)):
            if row not in found and torch.equal(noise[row], one):
                found[row] = picture
        if len(found) == len(noise):
            return tuple(found[row] for row in range(len(noise)))
    return None


def _drawn(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), dtype=dtype, generator=generator, device="cpu")


def tiles_in_a_call(context_bld: Tensor | None, x_shape: Sequence[int], *, num_chunks: int, run_rows: int) -> int:
    """How many times the chunks follow each other in the batch: packs that cut pictures into tiles compute several
    tiles in one call, each with the rows of every chunk. 1 if the prompts of the rows do not show it.

    Args:
        context_bld: the prompts (B, L, D) of the rows.
        x_shape: of the latents of the evaluation (B, C, H, W).
        num_chunks: how many conditionings they are computed for.
        run_rows: latents of the run, or of its part in this evaluation.
    """
    tile_rows = num_chunks * run_rows
    tiles, rest = divmod(x_shape[0], tile_rows) if tile_rows else (1, 0)
    if tiles < 2 or rest or context_bld is None or len(context_bld) != x_shape[0]:
        return 1
    return tiles if torch.equal(context_bld, context_bld[:tile_rows].repeat(tiles, 1, 1)) else 1


def explains(
    rows: tuple[int, ...] | None, x_shape: Sequence[int], *, num_chunks: int, run_shape: Sequence[int], whole: bool
) -> bool:
    """Whether `rows` explain the latents of an evaluation.

    Args:
        rows: from `rows_of`.
        x_shape: of the latents of the evaluation (B, C, H, W).
        num_chunks: how many conditionings they are computed for.
        run_shape: of the latents of the run (B, C, H, W), or empty if unknown.
        whole: whether each conditioning is for the whole picture.
    """
    each, rest = divmod(x_shape[0], num_chunks)
    expected = len(rows) if rows is not None else run_shape[0] if run_shape else each
    is_tile = whole and bool(run_shape) and tuple(x_shape[-2:]) != tuple(run_shape[-2:])
    return rest == 0 and each == expected and not is_tile


def _context_window(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """ComfyUI's Context Windows nodes: an object with `index_list`, along `dim` 0 for pictures of a batch."""
    window = options.get("context_window")
    if window is None or getattr(window, "dim", 0) != 0:
        return None
    return _indices(window)


def _indices(window: Any) -> tuple[int, ...]:
    """What a window computes: newer hosts put the picture before it in front, and leave its result out."""
    anchor = getattr(window, "causal_anchor_index", None)
    in_front = [] if anchor is None or anchor < 0 else [anchor]
    return tuple(int(index) for index in (*in_front, *window.index_list))


def _animatediff(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """AnimateDiff-Evolved: the frames of the present window in `ad_params["sub_idxs"]`, None without a window."""
    frames = (options.get("ad_params") or {}).get("sub_idxs")
    return None if frames is None else tuple(int(frame) for frame in frames)
