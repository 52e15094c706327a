"""PIDiffGrid: one picture for each combination of two settings, with labels, in one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io

from ..pidiff_core.adapter.presets import PRESETS, ApplyOptions
from ..pidiff_core.adapter.refinement import refined
from ..pidiff_core.errors import PIDiffError, check_interrupted, quoted
from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.images import labelled_grid
from ..pidiff_core.model import PIDiffModel
from ..pidiff_core.shapes import check_number
from ..pidiff_core.wplus.codes import LEVELS, WPlus
from ..pidiff_core.wplus.direction_files import SUFFIXES
from ..pidiff_core.wplus.directions import MOST_STEPS, Direction, apply_direction
from .apply import ApplyIdentityAdapter, preset_input, strength_input
from .host.direction_lists import NO_DIRECTION, direction_choices, is_none, offered_directions, offered_or_named
from .host.edit_preview import studio_of
from .host.folders import identities, list_pidiff_files
from .host.inputs import check_prompt, checked_inputs, checked_samples, numbers_in, ranges_of
from .host.node_report import report
from .host.progress import progress_bar
from .host.wire_types import PidiffModel, PidiffWPlus, fraction, schema, slider
from .unet.apply import apply_identity

NO_AXIS = "none"
ALL_LEVELS = "all"
MOST_CELLS = 100
# The settings that an axis can vary, and their values if the user gives none.
NUMBERS: Mapping[str, tuple[float, ...]] = {
    "strength": (0.0, 0.5, 1.0, 1.5),
    "start_percent": (0.0, 0.2, 0.4),
    "end_percent": (0.6, 0.8, 1.0),
    **dict.fromkeys(LEVELS, (0.0, 0.5, 1.0, 1.5)),
    "amount": (-2.0, -1.0, 0.0, 1.0, 2.0),
}
NAMES: Mapping[str, tuple[str, ...]] = {
    "preset": tuple(PRESETS),
    "direction": (),  # the model's
    "level": (*LEVELS, ALL_LEVELS),
}
AXES = (*NUMBERS, *NAMES)
_SHOWN_SIDE_PX = 2048  # of the grid on the node: its labels must be readable

Cell = Mapping[str, Any]  # setting -> value


@dataclass(frozen=True)
class Axis:
    """The settings of the rows, or of the columns."""

    setting: str
    values: Sequence[Any]

    @property
    def labels(self) -> list[str]:
        """One for each value."""
        if self.setting == NO_AXIS:
            return [""]
        return [f"{self.setting} {value:g}" if self.setting in NUMBERS else str(value) for value in self.values]


class Grid(io.ComfyNode):
    """Draws one picture with each combination of two settings of a person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffGrid",
            display_name="PIDiff Grid (Compare Settings, Expression Sheet)",
            category="PIDiff",
            description="Draws one picture for each combination of two settings of a person, such as strength and "
            "start_percent, or direction and amount, and writes the settings beside them.",
            has_intermediate_output=True,
            search_aliases=["XY plot", "X/Y plot", "compare", "contact sheet", "expression sheet", "age sheet"],
            advanced=["preset", "start_percent", "denoise"],
            inputs=[
                io.Model.Input("model", tooltip="Model without the person: the grid adds the person itself."),
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with an identity adapter for this base model."),
                PidiffWPlus.Input("wplus", tooltip="W+ codes of one person."),
                io.Conditioning.Input("positive", tooltip="Prompt: what to draw."),
                io.Conditioning.Input("negative", tooltip="Prompt: what to avoid."),
                io.Vae.Input("vae", tooltip="Autoencoder that decodes the pictures."),
                io.Latent.Input("latent_image", tooltip="Latent of one picture. It sets the size of a cell."),
                *_axis_inputs("columns", "amount"),
                *_axis_inputs("rows", "direction"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the noise, the same in all cells. Start with 0.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps of a cell. Start with 20."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance. Start with 7; 3 for PIDiff mini, 1 for few-step models.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="Sampler. Start with euler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="normal",
                    tooltip="Noise schedule. Start with normal.",
                ),
                strength_input("Strength of the identity if it is not on an axis. Start with 1."),
                io.Combo.Input(
                    "direction",
                    options=direction_choices(),
                    default=NO_DIRECTION,
                    tooltip="Direction for the axes amount and level, and for all cells, if it is not on an axis. "
                    "Start with none.",
                ),
                slider(
                    "amount",
                    "How far to move along the direction if it is not on an axis, in the units of Style Edit's "
                    "sliders. Start with 1, a clear change.",
                    least=-MOST_STEPS,
                    most=MOST_STEPS,
                ),
                preset_input("Preset of Apply Identity Adapter if it is not on an axis. Start with portrait."),
                fraction(
                    "start_percent",
                    0.0,
                    "Fraction of sampling at which the identity starts if it is not on an axis. Start with 0.",
                    optional=True,
                ),
                fraction(
                    "denoise",
                    1.0,
                    "Part of the sampling that is done. Start with 1; less keeps more of latent_image.",
                    optional=True,
                ),
            ],
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="All pictures with their settings, as one image."),
                io.Image.Output("images", display_name="images", tooltip="The pictures as a batch, row by row."),
            ],
        )

    @classmethod
    def validate_inputs(cls, direction: str | None = None, input_types: Any = None) -> bool:
        """Any direction is accepted here: other models have some that the list does not know. `execute` checks it."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, columns: str | None = None, rows: str | None = None, direction: str | None = None, **_others: Any
    ) -> list[tuple[str, FileIdentity]]:
        """Draw again when a file of directions has changed; behind a link (None) any setting is possible."""
        edits = not {columns, rows}.isdisjoint({None, "direction"}) or direction != NO_DIRECTION
        return identities(list_pidiff_files(SUFFIXES)) if edits else []

    @classmethod
    @checked_inputs
    def execute(
        cls,
        model: Any,
        pidiff_model: Any,
        wplus: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        latent_image: dict[str, Any],
        columns: str,
        column_values: str,
        rows: str,
        row_values: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        strength: float,
        direction: str,
        amount: float,
        preset: str = "portrait",
        start_percent: float = 0.0,
        denoise: float = 1.0,
    ) -> io.NodeOutput:
        """All settings are checked before the first picture is drawn."""
        pidiff_model.require_space_of(wplus)
        check_prompt(model, positive, name="positive")
        check_prompt(model, negative, name="negative")
        if len(wplus) != 1:
            raise PIDiffError(
                f"wplus has {len(wplus)} people, but a grid shows one. Encode one photo, or connect Average Codes."
            )
        across, down = (
            _axis(setting, values, name=name, model=pidiff_model)
            for setting, values, name in ((columns, column_values, "columns"), (rows, row_values, "rows"))
        )
        settings = {setting for setting in (columns, rows) if setting != NO_AXIS}
        if not settings or columns == rows:
            raise PIDiffError(
                f"columns and rows are both {quoted(columns)}. Choose two different settings, or one of them and "
                f"{NO_AXIS}."
            )
        if (number := len(across.values) * len(down.values)) > MOST_CELLS:
            raise PIDiffError(
                f"The grid has {len(across.values)} x {len(down.values)} = {number} cells, more than {MOST_CELLS}. "
                "Write fewer values."
            )
        if settings & {"amount", "level"} and "direction" not in settings and is_none(direction):
            raise PIDiffError(
                "The axes amount and level need a direction, but direction is none. Choose one, or put direction on "
                "the other axis."
            )
        fixed: Cell = {
            "strength": strength, "start_percent": start_percent, "preset": preset, "direction": direction,
            "amount": amount, "level": ALL_LEVELS,
        }  # fmt: skip
        cells = [
            {**fixed, down.setting: below, across.setting: beside} for below in down.values for beside in across.values
        ]
        editor = _Editor(pidiff_model, wplus)
        for name in dict.fromkeys(cell["direction"] for cell in cells):
            editor.prepare(name)
        adapter = pidiff_model.require("adapter", purpose="to apply an identity")
        samples = _latent(model, latent_image)
        drawing = _Drawing(
            positive=positive,
            negative=negative,
            vae=vae,
            samples=samples,
            noise_mask=latent_image.get("noise_mask"),
            noise=comfy.sample.prepare_noise(samples, seed, latent_image.get("batch_index")),
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
        )
        progress = progress_bar()
        pictures = []
        for index, cell in enumerate(cells):
            check_interrupted()
            codes = editor.edited(cell)
            patched = apply_identity(model, refined(adapter, codes), codes, options=_options(cell))

            def advance(part: float, done: int = index) -> None:
                progress((done + part) / len(cells))

            pictures.append(drawing.picture(patched, on_progress=advance))
        images = torch.cat(pictures)
        grid = labelled_grid(images, columns=across.labels, rows=down.labels)
        shown = report(images_bhwc=grid, most_side_px=_SHOWN_SIDE_PX, warnings=editor.doubts)
        return io.NodeOutput(grid, images, ui=shown)


def _axis_inputs(name: str, default: str) -> list[Any]:
    one = name.removesuffix("s")
    return [
        io.Combo.Input(
            name,
            options=[NO_AXIS, *AXES],
            default=default,
            tooltip=f"Setting that differs from {one} to {one}. Start with {default}. level: the level in which the "
            "direction edits. coarse, medium, fine: strength of that level.",
        ),
        io.String.Input(
            f"{one}_values",
            default="",
            tooltip=f"Values of the {name}, separated by commas, such as '0, 0.5, 1' or 'smile, beard'. Start empty: "
            "a series for this setting.",
        ),
    ]


def _axis(setting: str, text: str, *, name: str, model: PIDiffModel) -> Axis:
    """One axis; its numbers are in the range of Apply Identity Adapter's inputs."""
    if setting == NO_AXIS:
        return Axis(NO_AXIS, [None])
    if setting in NUMBERS:
        numbers = numbers_in(text, name=f"values of {name}") or list(NUMBERS[setting])
        low, high, _ = {**ranges_of(ApplyIdentityAdapter), "amount": (-MOST_STEPS, MOST_STEPS, False)}[setting]
        return Axis(setting, [check_number(one, low, high, name=f"{setting} in {name}") for one in numbers])
    if setting not in NAMES:
        raise PIDiffError(f"{name} should be one of {', '.join([NO_AXIS, *AXES])}, but it is {quoted(setting)}.")
    known = NAMES[setting] or tuple(offered_directions(model))
    given = [part.strip() for part in text.replace(";", ",").replace("\n", ",").split(",") if part.strip()]
    if setting != "direction" and (unknown := [one for one in given if one not in known]):
        raise PIDiffError(f"{name} has the {setting} {quoted(unknown[0])}. There are {', '.join(known)}.")
    if not given and not known:
        raise PIDiffError("This model has no directions. Put direction files into models/pidiff.")
    return Axis(setting, given or known)


class _Editor:
    """Moves one person's codes along named directions, in the units of Style Edit's sliders."""

    def __init__(self, model: PIDiffModel, wplus: WPlus) -> None:
        self.model, self.wplus = model, wplus
        self.offered = offered_directions(model)
        self.found: dict[str, tuple[Direction, float]] = {}  # the direction, and its steps in a unit
        self.doubts: list[str] = []

    def prepare(self, name: str) -> None:
        """Find a direction, and measure the steps of a clear change."""
        if is_none(name):
            return
        direction = offered_or_named(name, self.model, offered=self.offered)
        unit = 1.0
        if self.model.generator is not None and self.model.latent_avg is not None:
            reach = studio_of(self.model).reach(direction)
            if reach is None:
                self.doubts.append(f"{name} does not change the portrait clearly; amounts are its own steps.")
            else:
                unit = reach.unit
        self.found[name] = direction, unit

    def edited(self, cell: Cell) -> WPlus:
        """The codes of one cell."""
        if is_none(cell["direction"]):
            return self.wplus
        direction, unit = self.found[cell["direction"]]
        levels = LEVELS if cell["level"] == ALL_LEVELS else [cell["level"]]
        return apply_direction(self.wplus, direction, amount=cell["amount"] * unit, levels=levels)


def _options(cell: Cell) -> ApplyOptions:
    own = {name: cell[name] for name in ("strength", "start_percent", "end_percent", "preset") if name in cell}
    return ApplyOptions(**own, levels={name: cell[name] for name in LEVELS if name in cell})


@dataclass(frozen=True)
class _Drawing:
    """What all cells have in common: inputs of the node, see there."""

    positive: Any
    negative: Any
    vae: Any
    samples: Any  # (1, C, H, W)
    noise_mask: Any
    noise: Any  # as samples
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float

    def picture(self, model: Any, *, on_progress: Callable[[float], None]) -> Any:
        """(1, H, W, 3): always from the same noise."""

        def on_step(step: int, *_previews: Any) -> None:
            check_interrupted()
            on_progress((step + 1) / self.steps)

        drawn = comfy.sample.sample(
            model, self.noise, self.steps, self.cfg, self.sampler, self.scheduler, self.positive, self.negative,
            self.samples, denoise=self.denoise, noise_mask=self.noise_mask, callback=on_step, disable_pbar=True,
            seed=self.seed,
        )  # fmt: skip
        return self.vae.decode(drawn)


def _latent(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    """The samples (1, C, H, W) of the LATENT."""
    samples = checked_samples(model, latent, name="the latent")
    if len(samples) != 1:
        raise PIDiffError(
            f"latent_image has {len(samples)} pictures, but a cell of the grid shows one. Set batch_size to 1."
        )
    return samples
