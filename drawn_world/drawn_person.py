"""Who a drawn person is: an explicit vector with one number in [0, 1] for each trait."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trait:
    """One row of `IDENTITY_TRAITS`.

    A continuous trait has no values and is uniform in [0, 1]; a categorical one stores index / (n - 1) of its n values,
    drawn with `weights`.
    """

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """ "continuous" or "categorical"."""
        return "categorical" if self.values else "continuous"

    @property
    def probabilities(self) -> tuple[float, ...]:
        """How often each value is drawn; uniform by default."""
        return self.weights or tuple(1 / len(self.values) for _ in self.values)


# "none" outweighs the other values only a little: shapes must tell people apart as well as colours do.
IDENTITY_TRAITS: tuple[Trait, ...] = (
    Trait("skin_tone", "light to dark skin"),
    Trait("skin_undertone", "rosy to golden skin"),
    Trait("face_width", "narrow to round face"),
    Trait("jaw", "pointed to square jaw"),
    Trait("hair_style", "shape of the hair", ("bald", "short", "parted", "curly", "bob", "long", "bun", "mohawk")),
    Trait(
        "hair_colour",
        "colour of hair, brows and beard",
        ("black", "brown", "blond", "red", "grey", "blue", "pink", "green"),
    ),
    Trait("hair_shade", "deep to bright variant of the hair colour"),
    Trait("eye_size", "small to big eyes"),
    Trait("eye_spacing", "close to wide set eyes"),
    Trait("eye_colour", "colour of the iris", ("brown", "blue", "green", "grey", "amber")),
    Trait("brow_thickness", "thin to thick brows"),
    Trait("brow_tilt", "drooping to slanted brows (outer end down to outer end up)"),
    Trait("nose_width", "narrow to wide nose"),
    Trait("nose_length", "short to long nose"),
    Trait("mouth_width", "small to wide mouth"),
    Trait("lip_fullness", "thin to full lips"),
    Trait("beard", "facial hair", ("none", "moustache", "goatee", "full"), (0.34, 0.22, 0.22, 0.22)),
    Trait("glasses", "shape of the glasses", ("none", "round", "square", "sunglasses"), (0.34, 0.22, 0.22, 0.22)),
    Trait("glasses_colour", "colour of the frame", ("black", "red", "white", "blue")),
    Trait("marks", "marks on the skin", ("none", "freckles", "mole", "blush", "scar"), (0.28, 0.18, 0.18, 0.18, 0.18)),
    Trait("ear_size", "small to big ears"),
)

TRAIT_INDEX: dict[str, int] = {trait.name: index for index, trait in enumerate(IDENTITY_TRAITS)}


@dataclass(frozen=True, eq=False)
class DrawnPerson:
    """A drawn person.

    `vector` is (len(IDENTITY_TRAITS),) float32 in [0, 1], read-only, categorical numbers snapped to their values.
    Build one with `sample`, `from_vector` or `replace`.
    """

    vector: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator) -> DrawnPerson:
        """Draw every trait independently."""
        uniform = rng.random(len(IDENTITY_TRAITS))
        vector = uniform.copy()
        for index, trait in enumerate(IDENTITY_TRAITS):
            if trait.values:
                chosen = int(np.searchsorted(np.cumsum(trait.probabilities), uniform[index], side="right"))
                vector[index] = min(chosen, len(trait.values) - 1) / (len(trait.values) - 1)
        return cls.from_vector(vector)

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> DrawnPerson:
        """The nearest person to `vector` (len(IDENTITY_TRAITS),): clipped to [0, 1], categories snapped.

        ValueError on another shape or NaN.
        """
        snapped = np.array(vector, dtype=np.float64)
        if snapped.shape != (len(IDENTITY_TRAITS),):
            raise ValueError(f"an identity vector has shape ({len(IDENTITY_TRAITS)},), not {snapped.shape}")
        if not np.isfinite(snapped).all():
            raise ValueError("an identity vector must be finite")
        snapped = snapped.clip(0, 1)
        for index, trait in enumerate(IDENTITY_TRAITS):
            if trait.values:
                snapped[index] = np.rint(snapped[index] * (len(trait.values) - 1)) / (len(trait.values) - 1)
        result = snapped.astype(np.float32)
        result.setflags(write=False)
        return cls(result)

    def replace(self, **traits: float | str) -> DrawnPerson:
        """The same person with some traits changed: a number in [0, 1], or a value's name for a categorical trait."""
        vector = self.vector.astype(np.float64)
        for name, value in traits.items():
            if name not in TRAIT_INDEX:
                raise ValueError(f"no trait is called {name!r}; there are {', '.join(TRAIT_INDEX)}")
            trait = IDENTITY_TRAITS[TRAIT_INDEX[name]]
            if isinstance(value, str):
                if value not in trait.values:
                    raise ValueError(
                        f"{name} cannot be {value!r}; it can be {', '.join(trait.values) or 'a number in [0, 1]'}"
                    )
                value = trait.values.index(value) / (len(trait.values) - 1)
            vector[TRAIT_INDEX[name]] = value
        return DrawnPerson.from_vector(vector)

    def number(self, name: str) -> float:
        """The stored number of a trait, in [0, 1]."""
        return float(self.vector[TRAIT_INDEX[name]])

    def category(self, name: str) -> str:
        """The named value of a categorical trait."""
        values = IDENTITY_TRAITS[TRAIT_INDEX[name]].values
        return values[round(self.number(name) * (len(values) - 1))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DrawnPerson) and bool(np.array_equal(self.vector, other.vector))

    def __hash__(self) -> int:
        return hash(self.vector.tobytes())
