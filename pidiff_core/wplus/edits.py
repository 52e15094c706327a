"""Several edits of one person as one value: what the sliders of StyleEdit set, written as JSON in its input `edits`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import PIDiffError, quoted
from ..shapes import check_number
from .codes import LEVELS, WPlus
from .directions import MOST_STEPS, Direction, apply_direction, mix_levels

MOST_DIRECTIONS = 64
_MOST_CHARACTERS = 16_384
_EXAMPLE = '{"directions": {"smile": 2.5}, "mix": {"fine": 0.5}}'


@dataclass(frozen=True)
class Edits:
    """Amounts of directions, and shares of another person.

    Args:
        directions: name -> steps, from -20 to 20, as in `apply_direction`. They are added in this order.
        mix: level -> share of the other person, from 0 to 1; None if the mixing is not set here. Levels that are left
            out have a share of 0.
    """

    directions: Mapping[str, float] = field(default_factory=dict)
    mix: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, text: str) -> Edits:
        """Read what `StyleEdit.edits` holds; an empty text means no edit.

        Raises:
            PIDiffError: anything but an object with `directions` and `mix`, both of names and numbers.
        """
        if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
            raise PIDiffError(f"edits should be a text of at most {_MOST_CHARACTERS} characters, such as {_EXAMPLE}.")
        if not text.strip():
            return cls()
        try:
            content = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise PIDiffError(
                f"edits should be JSON such as {_EXAMPLE}, but it is {quoted(text)}. Empty it, or use the sliders."
            ) from None
        return cls.from_object(content)

    @classmethod
    def from_object(cls, content: Any) -> Edits:
        """The same from what JSON became.

        Raises:
            PIDiffError: see `from_json`.
        """
        if not isinstance(content, dict) or not set(content) <= {"directions", "mix"}:
            raise PIDiffError(f"edits should be an object with 'directions' and 'mix', such as {_EXAMPLE}.")
        directions, mix = content.get("directions", {}), content.get("mix")
        if not isinstance(directions, dict) or not isinstance(mix, dict | None):
            raise PIDiffError(f"'directions' and 'mix' in edits should be objects of names and numbers: {_EXAMPLE}.")
        if len(directions) > MOST_DIRECTIONS:
            raise PIDiffError(f"edits has {len(directions)} directions, but at most {MOST_DIRECTIONS} are allowed.")
        for name, amount in directions.items():
            check_number(amount, -MOST_STEPS, MOST_STEPS, name=f"The amount of {quoted(name)} in edits")
        if mix is not None:
            if unknown := sorted(set(mix) - set(LEVELS)):
                raise PIDiffError(f"'mix' in edits has {quoted(unknown[0])}. Its levels are {', '.join(LEVELS)}.")
            for name, share in mix.items():
                check_number(share, 0.0, 1.0, name=f"The share of {name} in edits")
        return cls(directions, mix)

    def apply(
        self,
        wplus: WPlus,
        *,
        find: Callable[[str], Direction],
        other: WPlus | None = None,
        plain: PlainEdit | None = None,
    ) -> WPlus:
        """First the other person's levels, then the plain edit's direction, then the directions of this one.

        Amounts of 0 change no bit.

        Args:
            wplus: (B, S, D).
            find: a direction's name -> the direction.
            other: the person of `mix`; as many people, or one for all. None: nothing is mixed.
            plain: the other inputs of the node. Its share of `other` counts if `mix` is None.

        Raises:
            PIDiffError: an unknown direction, or one of another space or shape.
        """
        mix = self.mix if self.mix is not None else plain.mix() if plain is not None else {}
        if other is not None:
            wplus.require_same_space(other)
            for share in sorted({share for share in mix.values() if share}):
                chosen = [level for level in mix if mix[level] == share]
                wplus = mix_levels(wplus, other, levels=chosen, amount=share)
        if plain is not None and plain.direction is not None:
            wplus = apply_direction(wplus, plain.direction, amount=plain.amount, levels=plain.levels)
        for name, amount in self.directions.items():
            if amount:
                wplus = apply_direction(wplus, find(name), amount=amount)
        return wplus


@dataclass(frozen=True, eq=False)
class PlainEdit:
    """The edit of StyleEdit's other inputs: one direction, and one share of the other person, in the same levels.

    Args:
        direction: None for no direction.
        amount: steps along it.
        levels: the levels that are edited.
        share: of the other person, from 0 to 1.
    """

    direction: Direction | None = None
    amount: float = 1.0
    levels: Sequence[str] = LEVELS
    share: float = 1.0

    def mix(self) -> dict[str, float]:
        """Level -> share of the other person."""
        return dict.fromkeys(self.levels, self.share)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
