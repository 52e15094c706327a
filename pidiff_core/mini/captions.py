"""Captions of drawn pictures, and the small word-level tokenizer that reads them and what users type."""

from __future__ import annotations

import re

import numpy as np

from .identity import IDENTITY_TRAITS, TRAIT_INDEX, Identity
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
    "short": "short {} hair", "parted": "parted {} hair", "curly": "curly {} hair", "bob": "a {} bob",
    "long": "long {} hair", "bun": "a {} hair bun", "mohawk": "a {} mohawk",
}  # fmt: skip
_SHADES = ("deep", "", "bright")

# What users type for each word of the vocabulary.
_TYPED_FOR: dict[str, str] = {
    "forest": "woods woodland trees tree jungle park",
    "beach": "sea ocean seaside coast sand shore island",
    "city": "town street urban downtown buildings skyscrapers",
    "room": "indoors home house office interior kitchen bedroom",
    "desert": "dunes cactus canyon sunset mars",
    "space": "stars galaxy planet cosmos night universe",
    "person": "man woman boy girl guy lady human people someone astronaut character",
    "photo": "photograph picture photography realistic selfie image",
    "painting": "watercolor watercolour canvas acrylic art",
    "sketch": "charcoal sketched lineart",
    "drawing": "draw drawn",
    "shirt": "sweater jumper jacket tshirt top coat hoodie dress suit blouse",
    "clothes": "clothing outfit",
    "red": "crimson scarlet ginger",
    "blue": "navy",
    "purple": "violet lilac",
    "grey": "gray",
    "blond": "blonde",
    "green": "emerald",
    "wearing": "dressed wears",
    "smiling": "smiles happy laughing grinning cheerful joyful",
    "surprised": "shocked amazed astonished",
    "neutral": "serious calm",
    "curly": "afro",
    "mohawk": "punk",
    "brows": "eyebrows eyebrow",
    "glasses": "eyeglasses spectacles",
    "moustache": "mustache",
    "beard": "bearded",
    "big": "large huge",
    "small": "tiny little",
    "wide": "broad",
    "thick": "bushy",
    "light": "pale fair",
    "medium": "tan tanned",
    "freckles": "freckled",
    "round": "chubby",
}
SYNONYMS: dict[str, str] = {typed: word for word, others in _TYPED_FOR.items() for typed in others.split()}

START_ID = 0
END_ID = 1
_FIRST_WORD_ID = 2


def _values_of(name: str) -> tuple[str, ...]:
    return IDENTITY_TRAITS[TRAIT_INDEX[name]].values


def _glasses_phrase(style: str, colour: str) -> str:
    if style == "none":
        return "no glasses"
    return f"{colour} sunglasses" if style == "sunglasses" else f"{style} {colour} glasses"


def _hair_phrase(style: str, colour: str, shade: str) -> str:
    return "a bald head" if style == "bald" else _HAIR_PHRASES[style].format(f"{shade} {colour}".strip())


def trait_phrases(identity: Identity) -> list[str]:
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
    identity: Identity | None = None,
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


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _all_words() -> list[str]:
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
    texts += [*CLOTHES, "a bald head", "round", "square", "sunglasses", "no glasses"]
    return sorted({word for text in texts for word in _words(text)})


# Sorted; every word that a caption can contain. Trained text encoders depend on it: a change needs new weights.
VOCABULARY: list[str] = _all_words()

_WORD_IDS = {word: index + _FIRST_WORD_ID for index, word in enumerate(VOCABULARY)}


def word_ids() -> dict[str, int]:
    """Every token by its name: the two marks and the words."""
    return {"<start>": START_ID, "<end>": END_ID, **_WORD_IDS}


def tokenize(text: str) -> list[int]:
    """Word ids of a text: START_ID, the known words, END_ID.

    Synonyms are replaced; case, punctuation and unknown words are ignored.
    """
    known = (SYNONYMS.get(word, word) for word in _words(text))
    return [START_ID, *(_WORD_IDS[word] for word in known if word in _WORD_IDS), END_ID]
