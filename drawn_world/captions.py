"""Captions of drawn pictures."""

from __future__ import annotations

import numpy as np

from pidiff_core.mini.vocabulary import words

from .drawn_person import IDENTITY_TRAITS, TRAIT_INDEX, DrawnPerson
from .scene import CLOTHES, Scene

_MEDIUM_PHRASES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of", "a photo of", "a portrait photo of", "a portrait of", ""),
    "painting": ("a painting of", "a painting of", "an oil painting of", "a painted portrait of"),
    "sketch": ("a sketch of", "a pencil sketch of", "a pencil drawing of", "a sketch portrait of"),
}
_SUBJECTS = ("a person", "a person", "a person", "one person", "the face of a person")
_PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "forest": ("in the forest", "in a forest", "in front of a forest"),
    "beach": ("at the beach", "on the beach", "on a beach"),
    "city": ("in the city", "in a city", "in front of a city"),
    "room": ("in a room", "in the room", "inside a room"),
    "desert": ("in the desert", "in a desert", "in front of a desert"),
    "space": ("in space", "in outer space", "in front of space"),
}
_CLOTHES_PHRASES = ("wearing a {} shirt", "in a {} shirt", "wearing {} clothes", "with a {} shirt")
_EXPRESSION_PHRASES: dict[str, tuple[str, ...]] = {
    "neutral": ("", "", "with a neutral expression"),
    "smile": ("smiling", "smiling", "with a smile"),
    "surprised": ("surprised", "looking surprised", "with an open mouth"),
}

# Words for the low, middle and high third of each continuous trait; an empty one is not mentioned.
_CONTINUOUS_PHRASES: dict[str, tuple[str, str, str]] = {
    "skin_tone": ("light skin", "medium skin", "dark skin"),
    "skin_undertone": ("rosy skin", "", "golden skin"),
    "face_width": ("a narrow face", "", "a round face"),
    "jaw": ("a pointed chin", "", "a square jaw"),
    "eye_size": ("small eyes", "", "big eyes"),
    "eye_spacing": ("close set eyes", "", "wide set eyes"),
    "brow_thickness": ("thin brows", "", "thick brows"),
    "brow_tilt": ("drooping brows", "", "slanted brows"),
    "nose_width": ("a narrow nose", "", "a wide nose"),
    "nose_length": ("a short nose", "", "a long nose"),
    "mouth_width": ("a small mouth", "", "a wide mouth"),
    "lip_fullness": ("thin lips", "", "full lips"),
    "ear_size": ("small ears", "", "big ears"),
}
_BEARD_PHRASES = {"none": "no beard", "moustache": "a moustache", "goatee": "a goatee", "full": "a full beard"}
_MARK_PHRASES = {"none": "", "freckles": "freckles", "mole": "a mole", "blush": "blushing cheeks", "scar": "a scar"}
_HAIR_PHRASES = {
    "short": "short {}", "parted": "parted {}", "curly": "curly {}", "bob": "{} in a bob", "long": "long {}",
    "bun": "{} in a bun", "mohawk": "{} in a mohawk",
}  # fmt: skip
_SHADES = ("deep", "", "bright")


def _values_of(name: str) -> tuple[str, ...]:
    return IDENTITY_TRAITS[TRAIT_INDEX[name]].values


def _glasses_phrase(style: str, colour: str) -> str:
    if style == "none":
        return "no glasses"
    return f"{colour} sunglasses" if style == "sunglasses" else f"{style} {colour} glasses"


def _hair_phrase(style: str, colour: str, shade: str) -> str:
    return "a bald head" if style == "bald" else _HAIR_PHRASES[style].format(f"{shade} {colour} hair".strip())


def trait_phrases(identity: DrawnPerson) -> list[str]:
    """Everything that can be said about a person, each as a phrase that may follow "with"."""
    phrases = [words[min(2, int(3 * identity.number(name)))] for name, words in _CONTINUOUS_PHRASES.items()]
    shade = _SHADES[min(2, int(3 * identity.number("hair_shade")))]
    phrases.append(_hair_phrase(identity.category("hair_style"), identity.category("hair_colour"), shade))
    phrases.append(f"{identity.category('eye_colour')} eyes")
    phrases.append(_BEARD_PHRASES[identity.category("beard")])
    phrases.append(_glasses_phrase(identity.category("glasses"), identity.category("glasses_colour")))
    phrases.append(_MARK_PHRASES[identity.category("marks")])
    return [phrase for phrase in phrases if phrase]


def caption(
    scene: Scene,
    identity: DrawnPerson | None = None,
    *,
    rng: np.random.Generator | None = None,
    trait_probability: float = 0.0,
) -> str:
    """A caption such as "a photo of a person in the forest wearing a red shirt, smiling".

    Without `rng` the plainest wording is used. With `trait_probability` > 0, which needs `identity` and `rng`, each
    phrase about the person is added with that probability, in shuffled order. ValueError where one of them is missing.
    """

    def choose(options: tuple[str, ...]) -> str:
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    parts = [choose(_MEDIUM_PHRASES[scene.medium]), choose(_SUBJECTS), choose(_PLACE_PHRASES[scene.place])]
    clothes = choose(_CLOTHES_PHRASES).format(scene.clothes)
    expression = choose(_EXPRESSION_PHRASES[scene.expression])
    if rng is not None and rng.random() < 0.3:
        parts[2], clothes = clothes, parts[2]
    text = " ".join(part for part in (*parts, clothes) if part)
    if expression:
        text += f", {expression}"
    if trait_probability > 0:
        if identity is None or rng is None:
            raise ValueError("a caption with traits needs the identity and a random generator")
        phrases = trait_phrases(identity)
        chosen = [phrases[index] for index in rng.permutation(len(phrases)) if rng.random() < trait_probability]
        if chosen:
            text += ", with " + ", ".join(chosen)
    return text


def caption_words() -> list[str]:
    """Every word that a caption can contain, sorted."""
    texts = [
        phrase
        for table in (_MEDIUM_PHRASES, _PLACE_PHRASES, _EXPRESSION_PHRASES, _CONTINUOUS_PHRASES)
        for row in table.values()
        for phrase in row
    ]
    texts += [
        *_SUBJECTS,
        *_CLOTHES_PHRASES,
        *_BEARD_PHRASES.values(),
        *_MARK_PHRASES.values(),
        *_HAIR_PHRASES.values(),
        *_SHADES,
    ]
    for name in ("hair_colour", "eye_colour", "glasses_colour"):
        texts += _values_of(name)
    texts += [*CLOTHES, "a bald head", "hair", "round", "square", "sunglasses", "no glasses"]
    return sorted({word for text in texts for word in words(text)})


def caption_phrases() -> list[str]:
    """Every phrase of several words that means one thing, without its article, sorted: each is one token."""
    texts = [phrase for row in _CONTINUOUS_PHRASES.values() for phrase in row]
    texts += [*_BEARD_PHRASES.values(), *_MARK_PHRASES.values(), "a bald head"]
    texts += [f"{shade} {colour} hair" for shade in _SHADES for colour in _values_of("hair_colour")]
    texts += [f"{colour} eyes" for colour in _values_of("eye_colour")]
    frames = _values_of("glasses_colour")
    texts += [_glasses_phrase(style, colour) for style in _values_of("glasses") for colour in frames]
    texts += [f"{colour} {garment}" for colour in CLOTHES for garment in ("shirt", "clothes")]
    phrases = {" ".join(words(text.removeprefix("a "))) for text in texts}
    return sorted(phrase for phrase in phrases if " " in phrase)
