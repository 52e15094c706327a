"""What PIDiff keeps in ComfyUI's transformer_options: one RunState under one key.

It grows in three steps, each a new object, because hosts share or copy these options as they like:

    Apply nodes            the identities, in order                         apply.py
    start of the sampler   the conditionings, the ranges, who goes where    wrappers.start_run
    each evaluation        the UNetCall                                     wrappers.begin_call

The hook at a site (attn2_patch.py) reads it and looks up nothing else.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from einops import rearrange
from torch import Tensor

from ...pidiff_core.adapter.maps import ColumnShares, MapAverage
from .applied_identity import COND, UNCOND, AppliedIdentity, Area
from .batch_rows import UNKNOWN, explains, part_of, rows_of, tiles_in_a_call

KEY = "pidiff"  # in transformer_options, and our name among the host's callbacks and wrappers
WHOLE: Area = (0.0, 0.0, 1.0, 1.0)


class Conditioning(NamedTuple):
    """What a chunk of the batch is computed for.

    Args:
        half: COND, UNCOND, or None for neither, which gets no identity.
        area: the part of the picture that it is computed on: top, left, bottom, right in [0, 1].
    """

    half: int | None
    area: Area = WHOLE


class UNetCall:
    """One evaluation of the UNet.

    Args:
        chunks: what each chunk of the batch is computed for.
        sigmas: noise levels of the rows, on the device.
        identities: those of the model.
        ranges: by an identity's order, between which noise levels it acts, the lower one first.
        num_rows: rows of the whole batch, or None if unknown.
        rows: which latent of the run each row of a chunk is; None: row i is latent i.
        pictures: which picture of the batch each row of a chunk shows; None: row i is picture i.
    """

    def __init__(
        self,
        chunks: Sequence[Conditioning],
        *,
        sigmas: Tensor | None,
        identities: Sequence[AppliedIdentity],
        ranges: Mapping[int, tuple[float, float]],
        num_rows: int | None = None,
        rows: tuple[int, ...] | None = None,
        pictures: tuple[int, ...] | None = None,
    ) -> None:
        self.chunks = tuple(chunks)
        self.num_rows, self.rows, self.pictures = num_rows, rows, pictures
        self._sigmas, self._noise_level = sigmas, -1.0
        #: By an identity's order, whether it acts. Hooks do not compare noise levels themselves: a compiled graph would
        #: be made again for each side of each comparison.
        self.acts: dict[int, bool] = {}
        for identity in identities:
            low, high = ranges.get(identity.order, identity.sigma_range)
            level = None if identity.is_always_on else self.noise_level
            self.acts[identity.order] = level is None or low <= level <= high

    @property
    def noise_level(self) -> float | None:
        """Sigma; None if the host does not tell. Read from the device once, when it is first asked for."""
        if self._sigmas is None:
            return None
        if self._noise_level < 0.0:
            self._noise_level = float(self._sigmas.flatten()[0])
        return self._noise_level


class Arrangement:
    """Who goes where: identities without masks share the faces of the picture, left to right.

    Args:
        ranks: by an identity's order, its rank from the left.
        people: how many places there are: an Apply node that adds nothing keeps its place.
        maps_per_step: how many maps an evaluation brings.
    """

    def __init__(self, ranks: Mapping[int, int], *, people: int, maps_per_step: int) -> None:
        self._ranks = dict(ranks)
        self._shares = ColumnShares(people, maps_per_step=maps_per_step)

    @property
    def compile_key(self) -> tuple[Any, ...]:
        """What code compiled for it depends on, apart from the values in its tensors."""
        return tuple(self._ranks.items()), self._shares.people, self._shares.rows

    @property
    def split_pictures(self) -> tuple[int, list[int]]:
        """How many people there are, and which latents have fewer faces in a row. It waits for the device."""
        return self._shares.people, self._shares.split_rows()

    def places(self, identity: AppliedIdentity) -> bool:
        """Whether it limits this identity's area."""
        return identity.order in self._ranks

    def mask(
        self, identity: AppliedIdentity, size: tuple[int, int], *, area: Area, like: Tensor, rows: Sequence[int] | None
    ) -> Tensor:
        """The identity's share (1 or B, N) of an area of the picture, at a site's size."""
        return self._shares.share(self._ranks[identity.order], size, area=area, like=like, rows=rows)

    def add(self, map_bn: Tensor, size: tuple[int, int], *, area: Area, rows: Sequence[int] | None) -> None:
        """Follow a site's map of one of the identities."""
        self._shares.add(_as_map(map_bn, size), area=area, rows=rows)


class MapRecorder:
    """Averages the maps of identities over the sites of an evaluation, for Localise.

    Args:
        orders: whose maps, by their order.
        size: height and width of the averages.
    """

    def __init__(self, orders: Sequence[int], size: tuple[int, int]) -> None:
        self._averages = {order: MapAverage(size) for order in orders}

    @property
    def compile_key(self) -> tuple[Any, ...]:
        """What code compiled for it depends on, apart from the values in its tensors."""
        return tuple((order, average.size, average.rows) for order, average in self._averages.items())

    def records(self, identity: AppliedIdentity) -> bool:
        """Whether this identity's maps are wanted."""
        return identity.order in self._averages

    def add(
        self,
        identity: AppliedIdentity,
        map_bn: Tensor,
        size: tuple[int, int],
        *,
        area: Area,
        rows: Sequence[int] | None,
    ) -> None:
        """A site's map of one identity."""
        self._averages[identity.order].add(_as_map(map_bn, size), area=area, rows=rows)

    def means(self) -> list[Tensor]:
        """The mean map (B, height, width) of each identity that was seen."""
        return [mean for average in self._averages.values() if (mean := average.mean()) is not None]


@dataclass(frozen=True, eq=False)
class RunState:
    """See the module."""

    in_row: tuple[bool, ...] = ()
    """For each Apply node that the model passed, also those that add nothing: whether it takes a place in the row."""
    identities: tuple[AppliedIdentity, ...] = ()
    """Those that add something, in the order of their Apply nodes."""
    keys: tuple[tuple[Any, ...], ...] = ()
    """The host's keys of our patches, (block, number[, index])."""

    conditionings: Mapping[Any, Conditioning] | None = None
    """Of the run, by the host's uuid; None before the sampler has started."""
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """By an identity's order, between which noise levels it acts by the schedule in use, the lower one first; empty
    before the sampler has started."""
    latent_shape: tuple[int, ...] = ()
    """Of the run: (B, C, H, W)."""
    pictures: tuple[int, ...] | None = None
    """Which picture of a batch each latent of the run was; None: latent i is picture i."""
    arrangement: Arrangement | None = None
    recorder: MapRecorder | None = None

    call: UNetCall | None = None
    """The evaluation that is being computed."""

    def __deepcopy__(self, _: Any) -> RunState:
        return self  # it never changes

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunState:
        """The one in the host's transformer_options; an empty one if no Apply node came before."""
        return options.get(KEY) or _EMPTY

    def arrange(self) -> Arrangement | None:
        """A new arrangement for a run, or None if fewer than two places are taken."""
        people = sum(self.in_row)
        placed = [identity for identity in self.identities if identity.in_row]
        if people < 2 or not placed:
            return None
        ranks = {identity.order: sum(self.in_row[: identity.order]) for identity in placed}
        maps = sum(identity.num_sites for identity in placed)
        return Arrangement(ranks, people=people, maps_per_step=max(maps, 1))


_EMPTY = RunState()
_NEITHER = Conditioning(None)


def read_call(
    options: Mapping[str, Any],
    identities: Sequence[AppliedIdentity],
    *,
    x_shape: Sequence[int] | None = None,
    context_bld: Tensor | None = None,
) -> UNetCall:
    """What the host's transformer_options tell about an evaluation.

    The host's numbers of the halves count the guider's lists: DualCFG lists its negatives first, and SAG evaluates the
    negative alone, as number 0. So the conditionings of the run decide, if the sampler has been seen starting.

    Args:
        options: the host's transformer_options.
        identities: those to compute for.
        x_shape: of the latents (B, C, H, W), if known.
        context_bld: the prompts (B, L, D) of the rows, if known.
    """
    state = RunState.of(options)
    numbers: Sequence[int] = options.get("cond_or_uncond") or [COND]
    names: Sequence[Any] = options.get("uuids") or []
    if len(names) == len(numbers) and state.conditionings is not None:
        chunks = [state.conditionings.get(name, _NEITHER) for name in names]
        if not all(name in state.conditionings for name in names):
            warn_once(
                "The UNet is evaluated for a prompt that is neither the sampler's positive nor its negative one: "
                "PIDiff applies no identity to it."
            )
    else:
        chunks = [Conditioning(number if number in (COND, UNCOND) else None) for number in numbers]
    rows = rows_of(options)
    part = part_of(options, state.latent_shape)
    if part is not None:
        chunks = [chunk._replace(area=part) if chunk.area == WHOLE else chunk for chunk in chunks]
    if x_shape is not None and state.latent_shape:
        run_rows = state.latent_shape[0] if rows is None else len(rows)
        chunks *= tiles_in_a_call(context_bld, x_shape, num_chunks=len(chunks), run_rows=run_rows)
    whole = all(chunk.area == WHOLE for chunk in chunks)
    if x_shape is not None and not explains(
        rows, x_shape, num_chunks=len(chunks), run_shape=state.latent_shape, whole=whole
    ):
        rows = None
        if any(identity.differs_by_picture for identity in identities):
            warn_once(UNKNOWN)
    pictures = rows
    if state.pictures is not None:
        pictures = state.pictures if rows is None else tuple(state.pictures[row] for row in rows)
    return UNetCall(
        chunks,
        sigmas=options.get("sigmas"),
        identities=identities,
        ranges=state.ranges,
        num_rows=None if x_shape is None else x_shape[0],
        rows=rows,
        pictures=pictures,
    )


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning the first time that it comes up in this process."""
    logging.getLogger("PIDiff").warning(text)


def _as_map(map_bn: Tensor, size: tuple[int, int]) -> Tensor:
    return rearrange(map_bn, "b (h w) -> b h w", h=size[0])
