"""W+ codes as a value: what the encoder reads from a face, what editing changes, and what the adapter consumes.

Two kinds of code are in circulation, absolute ones and offsets from the generator's average code. They look alike and
must never be confused, so `WPlus` always holds absolute codes together with the average that belongs to them; ask for
`.offsets` for the difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import PIDiffError, printable
from ..shapes import check_shape

LEVELS = ("coarse", "medium", "fine")
_MOST_STYLES, _MOST_WIDTH = 256, 8192  # the largest in use are 18 and 512


def levels(num_styles: int) -> dict[str, slice]:
    """Which styles are coarse (pose, shape of the head), medium (features) and fine (colour, texture).

    The boundaries are those of the 18 styles of a 1024 px StyleGAN2 (0-3, 4-7, 8-17), scaled to `num_styles`.

    >>> levels(10)
    {'coarse': slice(0, 2, None), 'medium': slice(2, 4, None), 'fine': slice(4, 10, None)}
    """
    if num_styles < 4:
        raise PIDiffError(f"A W+ space needs at least 4 styles to have three levels, but this one has {num_styles}.")
    first, second = round(4 * num_styles / 18), round(8 * num_styles / 18)
    return {"coarse": slice(0, first), "medium": slice(first, second), "fine": slice(second, num_styles)}


@dataclass(frozen=True)
class WPlusSpace:
    """One W+ space. Codes may be mixed only within a space: two generators' codes have nothing in common."""

    name: str  # which generator and encoder, for example "ffhq-1024" or "mini-64"
    num_styles: int  # S: 2 * log2(generator's size) - 2
    width: int = 512  # D: numbers in one style

    def __post_init__(self) -> None:
        sizes = ((self.num_styles, _MOST_STYLES), (self.width, _MOST_WIDTH))
        if not isinstance(self.name, str) or not all(type(size) is int and 0 < size <= most for size, most in sizes):
            raise PIDiffError(
                f"A W+ space is a name and two sizes, for example ffhq-1024 (18 styles of 512), not {self}."
            )
        object.__setattr__(self, "name", printable(self.name))

    @property
    def levels(self) -> dict[str, slice]:
        """The styles of each level: see `levels`."""
        return levels(self.num_styles)

    def __str__(self) -> str:
        return f"{self.name} ({self.num_styles} styles of {self.width})"


@dataclass(frozen=True, eq=False)
class Refinement:
    """A low-rank change of one adapter for one person, made by tuning; `adapter.refinement` adds it.

    Args:
        adapter: which adapter it belongs to: `adapter.refinement.fingerprint`.
        weights: "input.1.0.to_k.down" (r, W) and ".up" (C, r), and the same for to_v, for every site.
    """

    adapter: str
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class WPlus:
    """A batch of W+ codes. Immutable: every method returns a new value.

    Args:
        codes: (B, S, D), absolute (the average is already added). Kept as float32 on the CPU.
        latent_avg: (S, D), the generator's average code.
        space: the space that both belong to.
        source: the origin of the codes as text for users ("encoded from astronaut.png, face 0").
        origin: facts about their origin for programs (the picture's hash, the crop, the encoder), JSON-able.
        present: B times whether the row is an identity. False: the row belongs to a photo without a face; it has
            the average code, and the identity is not applied. Empty: all are identities.
        average_known: False: `latent_avg` is a placeholder of zeros, and there are no offsets.
        refinement: the adapter's change for tuned codes; ApplyIdentityAdapter applies it.

    Raises:
        PIDiffError: shapes that do not fit the space, or numbers that are not finite.
    """

    codes: Tensor
    latent_avg: Tensor
    space: WPlusSpace
    source: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    present: tuple[bool, ...] = ()
    average_known: bool = True
    refinement: Refinement | None = None

    def __post_init__(self) -> None:
        num_styles, width = self.space.num_styles, self.space.width
        for name, pattern in (("codes", f"B {num_styles} {width}"), ("latent_avg", f"{num_styles} {width}")):
            tensor = getattr(self, name)
            check_shape(tensor, pattern, name=f"{name} of the W+ space {self.space}")
            owned = tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)
            if not torch.isfinite(owned).all():
                raise PIDiffError(f"The {name} of {self.source or 'these W+ codes'} hold numbers that are not finite.")
            object.__setattr__(self, name, owned)
        if len(self.codes) == 0:
            raise PIDiffError(f"The codes of {self.source or 'this value'} are an empty batch; at least one is needed.")
        object.__setattr__(self, "source", printable(self.source))
        object.__setattr__(self, "origin", dict(self.origin))
        present = tuple(map(bool, self.present)) or (True,) * len(self.codes)
        if len(present) != len(self.codes):
            raise PIDiffError(f"{len(present)} marks of photos with a face were given for {len(self.codes)} codes.")
        object.__setattr__(self, "present", present)

    @classmethod
    def from_offsets(
        cls,
        offsets: Tensor,
        latent_avg: Tensor,
        *,
        space: WPlusSpace,
        source: str = "",
        origin: Mapping[str, Any] | None = None,
        present: Sequence[bool] = (),
    ) -> WPlus:
        """Codes from their differences to the average: offsets (B, S, D), latent_avg (S, D)."""
        latent_avg = latent_avg.to(offsets)
        return cls(offsets + latent_avg, latent_avg, space, source, origin or {}, tuple(present))

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def offsets(self) -> Tensor:
        """(B, S, D): the codes minus the average.

        Raises:
            PIDiffError: the average is unknown (see `code_files.load_codes`).
        """
        if not self.average_known:
            raise PIDiffError(
                f"The average code of {self.source or 'these W+ codes'} is unknown: they were loaded with a model that "
                "has no encoder. Load them again with the PIDiff model whose encoder made them."
            )
        return self.codes - self.latent_avg

    @property
    def photos(self) -> list[dict[str, Any]]:
        """The record of every photo that the codes were read from, as far as it is known."""
        photos = self.origin.get("photos")
        return [photo for photo in photos if isinstance(photo, dict)] if isinstance(photos, list | tuple) else []

    def select(self, index: int) -> WPlus:
        """One identity of the batch, as a batch of one. Negative indices count from the end."""
        if not -len(self) <= index < len(self):
            raise PIDiffError(f"Identity {index} was asked for, but there are {len(self)} in this batch of codes.")
        photos = self.photos
        origin = {**self.origin, "photos": [photos[index]]} if len(photos) == len(self) else self.origin
        return dataclasses.replace(self, codes=self.codes[index][None], present=(self.present[index],), origin=origin)

    def with_codes(self, codes: Tensor, *, source: str | None = None) -> WPlus:
        """Other codes (B, S, D) of the same space; all are identities if there are more or fewer than before."""
        return dataclasses.replace(
            self,
            codes=codes,
            source=self.source if source is None else source,
            present=self.present if len(codes) == len(self) else (),
        )

    def require_same_space(self, other: WPlus) -> None:
        """Raise PIDiffError unless `other` lives in this value's space and has its average."""
        if self.space != other.space:
            raise PIDiffError(
                f"These W+ codes belong to two spaces, {self.space} and {other.space}. "
                "Encode both photos with the same PIDiff model before you combine them."
            )
        known = self.average_known and other.average_known
        if known and not torch.allclose(self.latent_avg, other.latent_avg, atol=1e-4):
            raise PIDiffError(
                f"These W+ codes are both of {self.space}, but with different average codes, so they come from two "
                "different generators. Encode both photos with the same PIDiff model before you combine them."
            )
