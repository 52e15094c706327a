"""Live portraits for the sliders of StyleEdit, from what its last runs left in memory. `edit_routes` serves them.

Portraits are drawn by a small copy of the generator on the CPU: a running workflow's models stay on their device, and
its interrupts are its own.
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...pidiff_core.errors import PIDiffError
from ...pidiff_core.files.lazy import LazyNetwork
from ...pidiff_core.model import PIDiffModel
from ...pidiff_core.stylegan2.generator import Generator
from ...pidiff_core.wplus.calibration import Reach, measure_reach, typical_distance
from ...pidiff_core.wplus.codes import LEVELS, WPlus
from ...pidiff_core.wplus.directions import Direction
from ...pidiff_core.wplus.edits import Edits, PlainEdit

SMALLEST_PX, MEASURED_PX, PORTRAIT_PX = 32, 64, 256  # portraits; directions are measured at MEASURED_PX
QUICK_S, RESTED_S = 0.4, 1.5  # the longest that a portrait may take while a slider moves, and after it has rested
MEASURING_S = 1.0  # of one answer; the rest of the directions is measured for the next one
MOST_RUNS = 16
MOST_PEOPLE = 8
_RERUN = "Run the workflow again to see the portrait."


@dataclass(frozen=True)
class Run:
    """What one run of StyleEdit left for its panel."""

    model: ref[PIDiffModel]
    wplus: WPlus  # before any edit; at most MOST_PEOPLE
    other: WPlus | None
    plain: PlainEdit
    directions: Mapping[str, Direction]


class Studio:
    """Draws small portraits of one model, and measures its directions on its average person."""

    def __init__(self, model: PIDiffModel) -> None:
        network: Any = model.generator
        network = network.anywhere() if isinstance(network, LazyNetwork) else network
        self.generator: Generator = network.shortened(PORTRAIT_PX)
        self.styles = self.generator.config.num_styles
        self.average = WPlus(model.require_average()[None], model.require_average(), model.space)
        self.typical = typical_distance(self.generator.mapping, self.generator.config.z_dim)
        self.quick_px, self.rested_px = self._sizes()
        self._reaches: WeakKeyDictionary[Direction, Reach | None] = WeakKeyDictionary()

    def _sizes(self) -> tuple[int, int]:
        """Sizes in px that this machine draws in QUICK_S and in RESTED_S. Twice the size takes about twice as long."""
        codes = self.average.codes
        self.portrait(codes, size_px=64)
        start = time.perf_counter()
        self.portrait(codes, size_px=64)
        taken = time.perf_counter() - start
        rested = next((size for size in (PORTRAIT_PX, 128) if taken * size / 64 <= RESTED_S), 64)
        return 64 if taken <= QUICK_S else SMALLEST_PX, rested

    @torch.no_grad()
    def portrait(self, codes: Tensor, *, size_px: int) -> Tensor:
        """Codes (B, S, D) -> (B, 3, size_px or the generator's size, the same) in [-1, 1]."""
        return self.generator.synthesis(codes[:, : self.styles], size_px=size_px)

    def is_measured(self, direction: Direction) -> bool:
        """Whether `reach` has been asked for before."""
        return direction in self._reaches

    def reach(self, direction: Direction) -> Reach | None:
        """See `calibration.measure_reach`; measured once. None, too, for a direction that does not fit the codes."""
        if direction not in self._reaches:
            draw = partial(self.portrait, size_px=MEASURED_PX)
            try:
                found = measure_reach(direction, self.average, draw=draw, typical=self.typical)
            except PIDiffError:  # of another space or shape
                found = None
            self._reaches[direction] = found
        return self._reaches[direction]


_runs: OrderedDict[str, Run] = OrderedDict()
_studios: WeakKeyDictionary[PIDiffModel, Studio] = WeakKeyDictionary()
_lock = threading.Lock()


def remember(
    model: PIDiffModel,
    wplus: WPlus,
    *,
    other: WPlus | None,
    plain: PlainEdit,
    directions: Mapping[str, Direction],
) -> str | None:
    """Keep what a panel needs of a run; returns its key, or None if the model has no generator to draw with."""
    if model.generator is None or model.latent_avg is None:
        return None
    key = secrets.token_urlsafe(16)
    rows = [wplus.select(index) for index in range(min(len(wplus), MOST_PEOPLE))]
    few = wplus.with_codes(torch.cat([row.codes for row in rows]))
    if other is not None and len(other) > 1:
        other = other.with_codes(other.codes[:MOST_PEOPLE])
    with _lock:
        _runs[key] = Run(ref(model), few, other, plain, directions)
        while len(_runs) > MOST_RUNS:
            _runs.popitem(last=False)
    return key


def studio_of(model: PIDiffModel) -> Studio:
    """The studio of this model: made at first use, dropped with the model."""
    with torch.inference_mode(False):
        made = _studios.get(model)
        if made is None:
            made = _studios[model] = Studio(model)
        return made


def open_panel(request: Mapping[str, Any]) -> dict[str, Any]:
    """The sliders: `{"levels": [{"level", "edits": [{"name", "unit", "most"}]}], "other", "people", "more"}`.

    Directions that change nothing, or that do not fit the codes, are left out. If `more` is true, some directions have
    not been measured yet: ask again.

    Raises:
        PIDiffError: an unknown key.
    """
    run, model = _run_of(request)
    studio = studio_of(model)
    groups: dict[str, list[dict[str, Any]]] = {level: [] for level in LEVELS}
    end, more = time.perf_counter() + MEASURING_S, False
    for name, direction in run.directions.items():
        if not studio.is_measured(direction) and time.perf_counter() > end:
            more = True
        elif (reach := studio.reach(direction)) is not None:
            groups[reach.level].append({"name": name, "unit": reach.unit, "most": reach.most})
    levels = [{"level": level, "edits": edits} for level, edits in groups.items()]
    return {"levels": levels, "other": run.other is not None, "people": len(run.wplus), "more": more}


def draw(request: Mapping[str, Any]) -> bytes:
    """A PNG of one person after the edits of the request: `{"key", "edits", "person", "quick"}`.

    Raises:
        PIDiffError: an unknown key, direction or person, or numbers out of range.
    """
    run, model = _run_of(request)
    edits = Edits.from_object(request.get("edits", {}))
    person = request.get("person", 0)
    if type(person) is not int or not 0 <= person < len(run.wplus):
        raise PIDiffError(f"person should be a whole number from 0 to {len(run.wplus) - 1}.")

    def find(name: str) -> Direction:
        if name not in run.directions:
            raise PIDiffError(f"The direction '{name:.60}' was not there when the node ran. {_RERUN}")
        return run.directions[name]

    other = run.other
    if other is not None and len(other) > 1:
        other = other.select(person)
    edited = edits.apply(run.wplus.select(person), find=find, other=other, plain=run.plain)
    studio = studio_of(model)
    size_px = studio.quick_px if request.get("quick") is True else studio.rested_px
    picture = studio.portrait(edited.codes, size_px=size_px)[0]
    pixels = rearrange((picture.clamp(-1, 1) + 1) * 127.5, "c h w -> h w c").round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _run_of(request: Mapping[str, Any]) -> tuple[Run, PIDiffModel]:
    with _lock:
        run = _runs.get(str(request.get("key")))
        if run is not None:
            _runs.move_to_end(str(request["key"]))
    model = run.model() if run is not None else None
    if run is None or model is None:
        raise PIDiffError(f"The codes of this node are no longer in memory. {_RERUN}")
    return run, model
