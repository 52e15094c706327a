"""What one run of a sampler keeps in mind: who stands where, side by side, and the maps that a node asked for.

A Watch lies in the run's own transformer_options and is gone with the run: identities and patches stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from einops import rearrange
from torch import Tensor

from ..pidiff_core.adapter.folding import Attended, FoldedSite
from ..pidiff_core.adapter.localisation import ColumnShares, MapAverage, site_map

if TYPE_CHECKING:
    from .identity import Identity
    from .site_patch import SitePatch

WATCH_KEY = "pidiff_watch"  # in transformer_options, of a run
APPLIES_KEY = "pidiff_applies"  # in transformer_options, of a model: for each Apply node, whether it stands in the row


def replacements_in(options: Mapping[str, Any]) -> dict[tuple[Any, ...], Any]:
    """What replaces cross-attentions, by the host's keys (block, number[, index]), in its transformer_options."""
    return options.get("patches_replace", {}).get("attn2", {})


def patches_in(options: Mapping[str, Any]) -> list[SitePatch]:
    """Our patches on the cross-attentions, in the host's transformer_options."""
    return [patch for patch in replacements_in(options).values() if hasattr(patch, "identities")]


def identities_of(patches: Iterable[SitePatch]) -> list[Identity]:
    """The identities of patches, each once, in the order in which they were applied."""
    found = dict.fromkeys(identity for patch in patches for identity in patch.identities)
    return sorted(found, key=lambda identity: identity.order)


class Watch:
    """See the module.

    Args:
        options: the transformer_options of the model: its Apply nodes, and the identities that came of them. A node
            that adds nothing keeps its place in the row, so that a slider at 0 does not move the others.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        patches = patches_in(options)
        row: tuple[bool, ...] = options.get(APPLIES_KEY, ())
        in_row = [identity for identity in identities_of(patches) if identity.beside]
        self.maps: dict[Identity, MapAverage] = {}
        self._person = {identity: sum(row[: identity.order]) for identity in in_row}
        notes = sum(identity in self._person for patch in patches for identity in patch.identities)
        self._shares = ColumnShares(sum(row), notes=max(notes, 1))

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody to place."""
        return self._shares.people < 2 or not self._person

    @property
    def structure(self) -> tuple[Any, ...]:
        """What code compiled for it depends on, apart from the values in its tensors."""
        maps = tuple((identity.order, average.size, average.rows) for identity, average in self.maps.items())
        return self._shares.people, self._shares.rows, maps

    def place(
        self,
        identity: Identity,
        site: FoldedSite,
        attended: list[Attended],
        *,
        text_output: Tensor,
        size: tuple[int, int],
        area: Sequence[float],
        mask: Tensor | None,
        is_positive: bool,
    ) -> Tensor | None:
        """The mask (1 or B, N) that this identity gets at a site: its own, or its share of the faces; records maps."""
        beside = identity in self._person and self._shares.people > 1
        if beside:
            mask = self._shares.share(self._person[identity], size, area=area, like=text_output)
        if is_positive and (beside or identity in self.maps):
            seen = site_map(site, attended, text_output=text_output)
            if beside:
                self._shares.note(_as_map(seen, size), area=area)
            if identity in self.maps:
                self.maps[identity].add(_as_map(seen if mask is None else seen * mask.float(), size), area=area)
        return mask


def _as_map(flat: Tensor, size: tuple[int, int]) -> Tensor:
    return rearrange(flat, "b (h w) -> b h w", h=size[0])
