"""The configuration of a run: its tables and their settings, each with its meaning, its default and its check."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import PIDiffError
from .data.options import PrepareOptions
from .evaluate.options import EvaluateOptions
from .loop import SHARDINGS, LoopConfig
from .optimisers import OPTIMISERS, SHARDABLE
from .person import PersonOptions
from .precision import PRECISIONS
from .stages import AdapterOptions, SampleOptions
from .strategy import StrategyConfig


@dataclass(frozen=True)
class BaseOptions:
    """The base model. Table [base]."""

    path: str = ""
    """A .safetensors checkpoint, a diffusers folder, or "mini" for the embedded model."""
    prediction: str = "auto"
    """What the base predicts: epsilon, v, or auto = read from the file."""


@dataclass(frozen=True)
class DataOptions:
    """The prepared photos. Table [data]."""

    prepared: str = "prepared"
    """Folder that `pidiff prepare` wrote."""
    held_out: int = 16
    """Photos that are kept from training, for the validation loss and the sample grids; 0 = none."""


@dataclass(frozen=True)
class StageOptions:
    """One stage. Tables [extract] and [localise]."""

    steps: int = 10_000
    """Optimiser steps; 0 = leave the stage out."""
    batch_size: int = 8
    """Samples of an optimiser step, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches that a process makes of its part: more of them need less memory."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up. Prodigy finds the rate itself: 1."""
    warmup_steps: int = 200
    """Steps in which the rate rises from 0."""
    final_rate: float = 0.1
    """The cosine schedule ends at this part of the learning rate; 1 = a constant rate."""
    ema_decay: float = 0.999
    """Of the average of the weights that is kept in the end; 0 = none."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1), ("accumulation", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise PIDiffError(f"A stage's {name} is {getattr(self, name)}: expected at least {least}.")
        if self.learning_rate <= 0 or not 0 <= self.ema_decay < 1:
            raise PIDiffError("A stage's learning_rate must be above 0 and its ema_decay at least 0 and below 1.")
        if self.batch_size % self.accumulation:
            raise PIDiffError(
                f"A batch of {self.batch_size} cannot be split into {self.accumulation} equal micro-batches: make "
                "batch_size a multiple of accumulation."
            )


@dataclass(frozen=True)
class OptimiserOptions:
    """The optimiser. Table [optimiser]."""

    name: str = "adamw"
    """adamw, adamw8bit, paged-adamw8bit, adafactor, prodigy or schedule-free; all but adamw need their package."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of its averages of the gradient and of its square."""
    weight_decay: float = 0.01
    """Decay of the weights."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise PIDiffError(f"optimiser.name is '{self.name}': expected one of {', '.join(OPTIMISERS)}.")


@dataclass(frozen=True)
class RunOptions:
    """The run. Table [run]."""

    folder: str = "training_runs/pidiff"
    """Checkpoints, curves and sample grids; a run goes on from what is there."""
    seed: int = 0
    """Of everything random."""
    precision: str = "auto"
    """bf16, fp32, or auto = what the machine computes fast."""
    gradient_checkpointing: bool = False
    """Less memory, about a third more time."""
    sharding: str = "none"
    """none = each process has everything (DDP); fsdp2 = weights and optimiser state shared out over the processes."""
    workers: int = 0
    """Processes beside each training process that make its next batches; 0 = it makes each one when it is due."""
    graphed: bool = False
    """CUDA graphs on one GPU: faster if the base is small. All batches must have the same shapes."""
    checkpoint_every: int = 500
    """Steps between checkpoints and sample grids."""
    validate_every: int = 500
    """Steps between validation losses."""
    log_every: int = 25
    """Steps between points of the curves."""
    trackers: tuple[str, ...] = ()
    """tensorboard, wandb, beside the CSV files that are always written."""

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("sharding", SHARDINGS)):
            if getattr(self, name) not in known:
                raise PIDiffError(f"run.{name} is '{getattr(self, name)}': expected one of {', '.join(known)}.")
        if self.workers < 0:
            raise PIDiffError(f"run.workers is {self.workers}: expected at least 0.")
        if self.graphed and self.gradient_checkpointing:
            raise PIDiffError(
                "run.graphed and run.gradient_checkpointing are both true: CUDA graphs cannot compute a part again. "
                "Set one of them to false."
            )


@dataclass(frozen=True)
class ExportOptions:
    """The exported adapter. Table [export]."""

    out: str = ""
    """The file; empty: adapter.safetensors in the run's folder."""
    name: str = ""
    """A name for the adapter's card."""
    licence: str = ""
    """The licence of the adapter's weights: yours to choose, within those of the photos and the encoder."""
    author: str = ""
    """Who trained it."""
    evaluation: str = ""
    """evaluation.json of `pidiff evaluate`, whose figures go into the card."""
    half: bool = True
    """Store the weights in 16 bits."""


@dataclass(frozen=True)
class Config:
    """Everything about a run."""

    base: BaseOptions = field(default_factory=BaseOptions)
    data: DataOptions = field(default_factory=DataOptions)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    extract: StageOptions = field(default_factory=StageOptions)
    localise: StageOptions = field(default_factory=StageOptions)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=RunOptions)
    samples: SampleOptions = field(default_factory=SampleOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    person: PersonOptions = field(default_factory=PersonOptions)

    def __post_init__(self) -> None:
        if self.run.sharding == "fsdp2" and self.optimiser.name not in SHARDABLE:
            raise PIDiffError(
                f"optimiser.name is '{self.optimiser.name}' and run.sharding is fsdp2: it cannot compute on "
                f"parameters that are shared out over processes. Choose one of {', '.join(SHARDABLE)}, or set "
                "run.sharding to none."
            )
        if not self.run.graphed:
            return
        for stage in ("extract", "localise"):
            options: StageOptions = getattr(self, stage)
            if options.accumulation > 1:
                raise PIDiffError(
                    f"run.graphed is true and {stage}.accumulation is {options.accumulation}: CUDA graphs cannot add "
                    f"up the gradients of micro-batches. Set {stage}.accumulation to 1, or run.graphed to false."
                )
        rows = self.strategy.extra_fraction * self.localise.batch_size
        if rows != round(rows):
            raise PIDiffError(
                f"run.graphed is true, but strategy.extra_fraction {self.strategy.extra_fraction:g} of a batch of "
                f"{self.localise.batch_size} is {rows:g} samples: CUDA graphs need the same number in every step. "
                "Choose a localise.batch_size for which it is a whole number, or set run.graphed to false."
            )

    def loop(self, stage: str) -> LoopConfig:
        """How the loop trains a stage."""
        options: StageOptions = getattr(self, stage)
        return LoopConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            warmup_steps=options.warmup_steps,
            final_rate=options.final_rate,
            ema_decay=options.ema_decay,
            accumulation=options.accumulation,
            optimiser=self.optimiser.name,
            betas=self.optimiser.betas,
            weight_decay=self.optimiser.weight_decay,
            clip_norm=self.optimiser.clip_norm,
            checkpoint_every=self.run.checkpoint_every,
            validate_every=self.run.validate_every,
            log_every=self.run.log_every,
            precision=self.run.precision,
            sharding=self.run.sharding,
            workers=self.run.workers,
            graphed=self.run.graphed,
            seed=self.run.seed + (stage == "localise"),
            compiled=False,
        )
