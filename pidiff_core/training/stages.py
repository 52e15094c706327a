"""One stage of training from prepared data: the batches, the loop, the held-out loss and the sample grids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import AdapterConfig
from ..files.whole_files import write_whole
from .bases.base import Base, TextCondition
from .batches import BatchMaker
from .diffusers_processor import cross_attention_sites
from .loop import LoopConfig, Share, fresh, train
from .sampling import sample
from .strategy import Batch, IdentityTraining, StrategyConfig, strategy_loss


@dataclass(frozen=True)
class AdapterOptions:
    """What kind of adapter is trained. Table [adapter]."""

    start: str = ""
    """An adapter file to go on from (PIDiff's own, or wplus_adapter.bin on an SD 1.x base); empty: a new one."""
    query: str = "host"
    """Queries of a new adapter: host (the site's own) or text (a projection of the text output, as W+ Adapter)."""
    sharing: str = "style"
    """Weights of its projection: one set a style, or one a level."""
    hidden: int = 0
    """Width of a hidden layer in its projection; 0 = one linear layer."""
    mixer_layers: int = 1
    """Layers that mix the tokens of all styles."""


@dataclass(frozen=True)
class SampleOptions:
    """The sample grids. Table [samples]."""

    count: int = 4
    """Held-out photos in the grid; 0 = no grids."""
    steps: int = 20
    """Sampling steps."""
    cfg: float = 5.0
    """Guidance scale."""


def new_adapter(base: Base, data: Any, options: AdapterOptions, *, seed: int) -> IdentityAdapter:
    """An untrained adapter for a base and a W+ space; the spread of the data's codes becomes its unit.

    data: `PreparedData`, or what has its `space` and `code_std`.
    """
    config = AdapterConfig(
        sites=cross_attention_sites(base.unet),
        num_styles=data.space.num_styles,
        code_width=data.space.width,
        token_width=base.context_width,
        query=options.query,
        sharing=options.sharing,
        hidden=options.hidden,
        mixer_layers=options.mixer_layers,
        family=base.family,
    )
    adapter = fresh(lambda: IdentityAdapter(config), seed=seed)
    adapter.projection.code_std.copy_(data.code_std)
    return adapter


def train_stage(
    base: Base,
    adapter: IdentityAdapter,
    data: Any,
    *,
    stage: str,
    size: int,
    strategy: StrategyConfig,
    loop: LoopConfig,
    folder: Path,
    held_out: Any = None,
    samples: SampleOptions | None = None,
    gradient_checkpointing: bool = False,
    trackers: Iterable[str] = (),
    saved: Callable[[IdentityAdapter, int], None] | None = None,
) -> bool:
    """Train the adapter in place, from the newest checkpoint in `folder` on.

    Args:
        base: its UNet is used; the autoencoder only for sample grids.
        adapter: what trains.
        data: `PreparedData`, or what has its `batch`, `null_text`, `latent_avg` and `code_std`.
        stage: "extract" or "localise".
        size: samples of an optimiser step, over all processes and micro-batches.
        strategy: the terms of the loss.
        loop: steps, rates, checkpoints.
        folder: of this stage.
        held_out: data like `data` for the validation loss and the sample grids, or None for neither.
        samples: the grids; None for none.
        gradient_checkpointing: less memory, about a third more time.
        trackers: names from `logs.TRACKERS`.
        saved: called with the averaged adapter and the step at every checkpoint, in the main process.

    Returns:
        Whether all steps are done; False after Ctrl-C.
    """
    module = IdentityTraining(
        base.unet,
        adapter,
        stage=stage,
        config=strategy,
        prediction=base.prediction,
        alphas_cumprod=base.alphas_cumprod,
    )
    module.same_passes = loop.sharding == "fsdp2"
    if gradient_checkpointing:
        module.binding.enable_gradient_checkpointing()
    maker = BatchMaker(data, stage, strategy, adapter.config, size=size, seed=loop.seed)
    validation: Callable[[Share], Iterable[Batch]] | None = None
    if held_out is not None:
        plain = replace(
            strategy, drop_identity=0, drop_text=0, drop_both=0, code_jitter=0, code_averaged=0, code_mirrored=0,
            extra_fraction=1.0, noise_offset=0,
        )  # fmt: skip
        fixed = BatchMaker(held_out, stage, plain, adapter.config, size=min(size, len(held_out)), seed=0)

        def validation(share: Share) -> Iterable[Batch]:
            if fixed.size % share.parts:  # too few photos to share out: every process computes all of them
                share = Share()
            return (fixed(step, share) for step in range(max(1, len(held_out) // fixed.size)))

    def snapshot(module: nn.Module, step: int) -> Tensor | None:
        assert isinstance(module, IdentityTraining)
        if saved is not None:
            saved(module.adapter, step)
        if held_out is None or samples is None or not samples.count:
            return None
        grid_bhwc = sample_grid(base, module, held_out, options=samples)
        save_grid(folder / "samples" / f"{step:07}.png", grid_bhwc, columns=4)
        return grid_bhwc

    try:
        return train(
            module,
            loop,
            batch=maker,
            loss=strategy_loss,
            folder=folder,
            snapshot=snapshot,
            snapshot_on=None,
            validation=validation,
            files=maker.files,
            frozen=base.unet,
            trackers=tuple(trackers),
        )
    finally:
        module.binding.detach()
        if gradient_checkpointing:
            base.unet.disable_gradient_checkpointing()


@torch.no_grad()
def sample_grid(base: Base, module: IdentityTraining, data: Any, *, options: SampleOptions) -> Tensor:
    """For each of a few photos: the photo, the base alone, the same noise with the identity, its map: (4n, H, W, 3)."""
    count = min(options.count, len(data))
    rows = data.batch(0, count, seed=0, kind="wild")
    height, width = (8 * side for side in rows.latents.shape[-2:])
    device = next(module.adapter.parameters()).device
    codes = rows.codes.float()
    if module.adapter.config.format != "pidiff":
        codes = codes + data.latent_avg.float()
    tokens = module.adapter.projection(codes.to(device))

    def pictures(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return sample(
            base,
            module.binding,
            tokens=tokens,
            text=TextCondition(rows.context.float(), rows.pooled),
            null_text=data.null_text,
            size_px=(height, width),
            seeds=range(count),
            steps=options.steps,
            cfg=options.cfg,
        )

    (plain, _), (identity, maps) = pictures(None), pictures(tokens)
    assert maps is not None
    photos = torch.cat([base.decode_latents(row.float()).cpu() for row in rows.latents.split(1)]) * 0.5 + 0.5
    base.release("autoencoder")
    shown = F.interpolate(maps[:, None], (height, width), mode="bilinear")
    columns = (
        rearrange(photos, "b c h w -> b h w c"), plain, identity, repeat(shown, "b 1 h w -> b h w c", c=3),
    )  # fmt: skip
    return rearrange(torch.stack(columns), "n b h w c -> (b n) h w c").clamp(0, 1)


def save_grid(path: Path, images_bhwc: Tensor, *, columns: int) -> None:
    """Write pictures (B, H, W, 3) in [0, 1] as one PNG, whole or not at all.

    Raises:
        PIDiffError: it cannot be written.
    """
    grid = rearrange(images_bhwc, "(r c) h w k -> (r h) (c w) k", c=columns)
    picture = Image.fromarray((grid.numpy() * 255).round().astype(np.uint8))
    write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))
