"""`pidiff train`: from a configuration and a prepared folder to an adapter."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapter.adapter import IdentityAdapter
from ..adapter.config import FAMILIES
from ..errors import PIDiffError
from .bases import Base, load_base
from .batches import BatchMaker
from .config import Config, StageOptions
from .config_file import dump
from .data.prepared import PreparedData
from .export import ADAPTER_FILE, adapter_to_start_from, with_family, write_adapter
from .folder_lock import folder_lock
from .logs import check_trackers
from .optimisers import make_optimiser
from .precision import choose_precision
from .stages import new_adapter, train_stage
from .state import gathered
from .strategy import STAGES, IdentityTraining, strategy_loss

_MEASURED_STEPS = 3


def run_training(config: Config, *, say: Callable[[str], None] = print) -> Path | None:
    """Train both stages, from where the folder's checkpoints are, and write the adapter.

    Args:
        config: see config.py.
        say: prints a line; called in the main process only.

    Returns:
        The adapter's file, or None after Ctrl-C.

    Raises:
        PIDiffError: the configuration, the base, the data and the folder do not fit together; the loss is not finite.
    """
    from accelerate import PartialState

    process = PartialState(cpu=not torch.cuda.is_available())
    main = process.is_main_process
    tell = say if main else _silent
    check(config, processes=process.num_processes)
    folder = Path(config.run.folder)
    with folder_lock(folder, what="train") if main else nullcontext():
        base = open_base(config, process.device)
        tell(f"base: {base.name}, {FAMILIES[base.family]}, predicts {base.prediction}")
        data = PreparedData.open(config.data.prepared, base=base)
        training, held_out = data.split(config.data.held_out) if config.data.held_out else (data, None)
        tell(f"data: {len(training)} photos of {training.num_people} people, {config.data.held_out} held out")
        check_data(config, training)
        for note in config.loop("localise").notes(process.device, processes=process.num_processes):
            tell(f"run.{note}")
        adapter = start_adapter(config, base, training)
        if main:
            (folder / "config.toml").write_text(dump(config), encoding="utf-8")
        for stage in STAGES:
            options: StageOptions = getattr(config, stage)
            if not options.steps:
                continue

            def saved(adapter: IdentityAdapter, step: int, stage: str = stage) -> None:
                card = _card(config, base, data, stage=stage, step=step)
                write_adapter(folder / ADAPTER_FILE, adapter, space=data.space, latent_avg=data.latent_avg, card=card)

            tell(f"stage {stage}: {options.steps} steps of {options.batch_size} samples")
            finished = train_stage(
                base,
                adapter,
                training,
                stage=stage,
                size=options.batch_size,
                strategy=config.strategy,
                loop=config.loop(stage),
                folder=folder / stage,
                held_out=held_out,
                samples=config.samples,
                gradient_checkpointing=config.run.gradient_checkpointing,
                trackers=config.run.trackers,
                saved=saved,
            )
            if not finished:
                tell(f"stopped; the same command goes on from the checkpoint in {folder / stage}")
                return None
            if config.run.sharding != "none":  # a sharded network cannot be sharded again for the next stage
                adapter = _whole(adapter)
                base.release("unet")
            if main:
                saved(adapter, options.steps)
    tell(f"the adapter is in {folder / ADAPTER_FILE}; pidiff export makes the file to share")
    return folder / ADAPTER_FILE


def check(config: Config, *, processes: int = 1) -> None:
    """PIDiffError for what no file is needed to see."""
    if not config.base.path:
        raise PIDiffError("No base model was given. Give it as --base.path model.safetensors, or 'mini' to try.")
    check_trackers(config.run.trackers)
    make_optimiser(config.optimiser.name, [nn.Parameter(torch.zeros(1))], learning_rate=1.0)
    for stage in STAGES:
        options: StageOptions = getattr(config, stage)
        parts = processes * options.accumulation
        if options.batch_size % parts:
            raise PIDiffError(
                f"{stage}.batch_size is {options.batch_size}, which {processes} processes with {options.accumulation} "
                f"micro-batches each cannot share equally: make it a multiple of {parts}."
            )


def check_data(config: Config, data: PreparedData) -> None:
    """PIDiffError for settings that these photos do not fit."""
    if config.run.graphed and config.localise.steps and len(data.buckets) > 1:
        sizes = ", ".join(f"{w}x{h}" for h, w in sorted(data.buckets))
        raise PIDiffError(
            f"run.graphed is true, but the photos are prepared in {len(data.buckets)} sizes ({sizes}): CUDA graphs "
            f"need one. Prepare them with --prepare.bucket_step_px {data.resolution} into another folder, or set "
            "run.graphed to false."
        )


def open_base(config: Config, device: torch.device) -> Base:
    """The base of a configuration, its weights in what the device computes fast."""
    bf16 = device.type == "cuda" and choose_precision(config.run.precision, device) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    return load_base(config.base.path, dtype=dtype, device=device, prediction=config.base.prediction)


def start_adapter(config: Config, base: Base, data: PreparedData) -> IdentityAdapter:
    """A new adapter, or the one that the configuration starts from."""
    if not config.adapter.start:
        return new_adapter(base, data, config.adapter, seed=config.run.seed)
    file = adapter_to_start_from(config.adapter.start, base=base, space=data.space)
    return with_family(file.adapter, base.family)


def describe_training(config: Config) -> str:
    """What `run_training` would do, with a few measured steps of each stage; nothing is written.

    Raises:
        PIDiffError: as `run_training`.
    """
    check(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = open_base(config, device)
    data = PreparedData.open(config.data.prepared, base=base)
    training, held_out = data.split(config.data.held_out) if config.data.held_out else (data, None)
    check_data(config, training)
    adapter = start_adapter(config, base, training)
    loop = config.loop("localise")
    graphs = "CUDA graphs; the times below are without" if loop.uses_graphs(device, processes=1) else "no"
    weights = sum(parameter.numel() for parameter in base.unet.parameters())
    trained = sum(parameter.numel() for parameter in adapter.parameters())
    buckets = ", ".join(f"{w}x{h}: {count}" for (h, w), count in sorted(training.buckets.items()))
    lines = [
        f"base      {base.name}: {FAMILIES[base.family]}, predicts {base.prediction}, UNet of {weights / 1e6:.0f} M",
        f"photos    {len(training)} of {training.num_people} people; held out {len(held_out) if held_out else 0}",
        f"buckets   {buckets}",
        f"adapter   {trained / 1e6:.1f} M weights, {len(adapter.config.sites)} sites, {config.optimiser.name}",
        f"precision {choose_precision(config.run.precision, device)} on {device.type}",
        f"batches   made by {loop.uses_workers() or 'no'} further processes",
        f"graphs    {graphs}",
        f"folder    {config.run.folder}",
    ]
    total = 0.0
    for stage in STAGES:
        options: StageOptions = getattr(config, stage)
        if not options.steps:
            continue
        seconds, peak = _measured(config, stage, base, adapter, training)
        total += seconds * options.steps
        seen = options.steps * options.batch_size / len(training)
        lines.append(
            f"{stage:9} {options.steps} steps of {options.batch_size} samples (each photo {seen:.1f} times), "
            f"{seconds:.2f} s a step, peak memory {peak / 2**30:.1f} GiB, {_hours(seconds * options.steps)}"
        )
    notes = (f"note      run.{note}" for note in loop.notes(device, processes=1))
    return "\n".join([*lines, f"in all    {_hours(total)}, on one process", *notes])


def _measured(
    config: Config, stage: str, base: Base, adapter: IdentityAdapter, data: PreparedData
) -> tuple[float, int]:
    """Seconds of an optimiser step, and the peak memory of the process or GPU in bytes."""
    options: StageOptions = getattr(config, stage)
    module = IdentityTraining(
        base.unet,
        adapter,
        stage=stage,
        config=config.strategy,
        prediction=base.prediction,
        alphas_cumprod=base.alphas_cumprod,
    ).to(base.device)
    if config.run.gradient_checkpointing:
        module.binding.enable_gradient_checkpointing()
    maker = BatchMaker(
        data, stage, config.strategy, adapter.config, size=options.batch_size // options.accumulation, seed=0
    )
    # Its rate is 0: the adapter stays as it is.
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = make_optimiser(config.optimiser.name, parameters, learning_rate=1e-12, weight_decay=0.0)
    bf16 = choose_precision(config.run.precision, base.device) == "bf16"
    times = []
    for step in range(_MEASURED_STEPS):
        began = time.monotonic()
        for _ in range(options.accumulation):
            inputs = {name: tensor.to(base.device) for name, tensor in maker(step).items()}
            with torch.autocast(base.device.type, torch.bfloat16, enabled=bf16):
                loss = strategy_loss(module, inputs)["loss"]
            loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if base.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    module.binding.detach()
    if config.run.gradient_checkpointing:
        base.unet.disable_gradient_checkpointing()
    return sorted(times)[len(times) // 2], _peak(base.device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _card(config: Config, base: Base, data: PreparedData, *, stage: str, step: int) -> dict[str, Any]:
    """The entries of an adapter's file about its training."""
    steps = {one: getattr(config, one).steps for one in STAGES}
    steps = {"extract": step, "localise": 0} if stage == "extract" else steps | {"localise": step}
    return {
        "family": base.family,
        "base": base.name,
        "prediction": base.prediction,
        "space": data.space.name,
        "photos": len(data),
        "people": data.num_people,
        "steps": steps,
        "batch_size": {one: getattr(config, one).batch_size for one in STAGES},
        "seed": config.run.seed,
    }


def _whole(adapter: IdentityAdapter) -> IdentityAdapter:
    """A copy of a sharded adapter that is not; all processes must call it."""
    weights = gathered(adapter.state_dict())
    copy = IdentityAdapter(adapter.config)
    copy.load_state_dict(weights)
    return copy


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _silent(_: str) -> None:
    """For all processes but the main one."""
