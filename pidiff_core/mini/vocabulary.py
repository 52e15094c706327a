"""The words that the embedded text encoder knows, and the tokenizer that reads what users type."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import PIDiffError

# Sorted; every word that a caption of the drawn world can contain. The text encoder depends on it: a change needs new
# weights.
VOCABULARY: list[str] = [
    "a", "amber", "an", "at", "bald", "beach", "beard", "big", "black", "blond", "blue", "blushing", "bob",
    "bright", "brown", "brows", "bun", "cheeks", "chin", "city", "close", "clothes", "curly", "dark", "deep",
    "desert", "drawing", "drooping", "ears", "expression", "eyes", "face", "forest", "freckles", "front", "full",
    "glasses", "goatee", "golden", "green", "grey", "hair", "head", "in", "inside", "jaw", "light", "lips", "long",
    "looking", "medium", "mohawk", "mole", "moustache", "mouth", "narrow", "neutral", "no", "nose", "of", "oil",
    "on", "one", "open", "outer", "painted", "painting", "parted", "pencil", "person", "photo", "pink", "pointed",
    "portrait", "purple", "red", "room", "rosy", "round", "scar", "set", "shirt", "short", "sketch", "skin",
    "slanted", "small", "smile", "smiling", "space", "square", "sunglasses", "surprised", "the", "thick", "thin",
    "wearing", "white", "wide", "with", "yellow",
]  # fmt: skip

# Phrases of those words that mean one thing: one token each, so that the text encoder need not learn which noun a word
# belongs to. Version 0 has none.
PHRASES: tuple[str, ...] = (
    "amber eyes", "bald head", "big ears", "big eyes", "black clothes", "black hair", "black shirt",
    "black sunglasses", "blond hair", "blue clothes", "blue eyes", "blue hair", "blue shirt", "blue sunglasses",
    "blushing cheeks", "bright black hair", "bright blond hair", "bright blue hair", "bright brown hair",
    "bright green hair", "bright grey hair", "bright pink hair", "bright red hair", "brown eyes", "brown hair",
    "close set eyes", "dark skin", "deep black hair", "deep blond hair", "deep blue hair", "deep brown hair",
    "deep green hair", "deep grey hair", "deep pink hair", "deep red hair", "drooping brows", "full beard",
    "full lips", "golden skin", "green clothes", "green eyes", "green hair", "green shirt", "grey eyes",
    "grey hair", "light skin", "long nose", "medium skin", "narrow face", "narrow nose", "no beard", "no glasses",
    "pink hair", "pointed chin", "purple clothes", "purple shirt", "red clothes", "red hair", "red shirt",
    "red sunglasses", "rosy skin", "round black glasses", "round blue glasses", "round face", "round red glasses",
    "round white glasses", "short nose", "slanted brows", "small ears", "small eyes", "small mouth",
    "square black glasses", "square blue glasses", "square jaw", "square red glasses", "square white glasses",
    "thick brows", "thin brows", "thin lips", "white clothes", "white shirt", "white sunglasses", "wide mouth",
    "wide nose", "wide set eyes", "yellow clothes", "yellow shirt",
)  # fmt: skip

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

# Words that carry no meaning in a prompt for this model: left out without a word to the user.
_FILLERS = "and are as by for from has have having he her his into is it its near or she that their there they this to"
FILLER_WORDS = frozenset([*_FILLERS.split(), "very", "who"])

START_ID = 0
END_ID = 1


def words(text: str) -> list[str]:
    """Lower-case words of a text, without numbers and punctuation."""
    return re.findall(r"[a-z]+", text.lower())


class Vocabulary:
    """The tokens of one text encoder: the two marks, the words and, since version 1, phrases of several words.

    Args:
        phrases: each one token, found before the words in it.
    """

    def __init__(self, phrases: Sequence[str] = PHRASES) -> None:
        self.ids: dict[str, int] = {"<start>": START_ID, "<end>": END_ID}
        for name in (*VOCABULARY, *phrases):
            self.ids[name] = len(self.ids)
        self._longest = max((len(phrase.split()) for phrase in phrases), default=1)

    @classmethod
    def of_size(cls, size: int) -> Vocabulary:
        """The vocabulary of a text encoder with `size` tokens: version 0's has no phrases.

        Raises:
            PIDiffError: there is none of this size.
        """
        for vocabulary in (cls(PHRASES), cls(())):
            if len(vocabulary) == size:
                return vocabulary
        raise PIDiffError(
            f"The mini text encoder has {size} tokens, but this version of PIDiff knows vocabularies of "
            f"{len(cls(()))} and {len(cls(PHRASES))}. Update PIDiff, or use the bundle that came with it."
        )

    def __len__(self) -> int:
        return len(self.ids)

    def tokenize(self, text: str, *, phrases: bool = True) -> list[int]:
        """Ids of a text: START_ID, the known phrases and words, END_ID.

        Synonyms are replaced; case, punctuation and unknown words are ignored. phrases: False = words only, as some
        training captions are read, so that words mean something alone too.
        """
        longest = self._longest if phrases else 1
        known = [SYNONYMS.get(word, word) for word in words(text)]
        found, place = [START_ID], 0
        while place < len(known):
            for length in range(longest, 0, -1):
                token = self.ids.get(" ".join(known[place : place + length]))
                if token is not None and place + length <= len(known):
                    found.append(token)
                    place += length
                    break
            else:
                place += 1
        return [*found, END_ID]


def unknown_words(text: str) -> list[str]:
    """Words of a text that the model ignores although they mean something, each once, in their order."""
    known = (word for word in words(text) if word not in FILLER_WORDS)
    return list(dict.fromkeys(word for word in known if SYNONYMS.get(word, word) not in VOCABULARY))
