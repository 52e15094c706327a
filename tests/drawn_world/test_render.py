"""The drawn world: pictures, labels and captions."""

import numpy as np
import pytest

from drawn_world.captions import caption, caption_phrases, caption_words, trait_phrases
from drawn_world.drawn_person import IDENTITY_TRAITS, DrawnPerson
from drawn_world.render import Scene, domain_randomise, render
from drawn_world.scene import CLOTHES, EXPRESSIONS, MEDIUMS, PLACES
from pidiff_core.errors import PIDiffError
from pidiff_core.mini.vocabulary import (
    END_ID,
    FILLER_WORDS,
    PHRASES,
    START_ID,
    SYNONYMS,
    VOCABULARY,
    Vocabulary,
    unknown_words,
)


def people(count: int, seed: int = 0) -> list[tuple[DrawnPerson, Scene]]:
    rng = np.random.default_rng(seed)
    return [(DrawnPerson.sample(rng), Scene.sample(rng)) for _ in range(count)]


def test_identity_round_trip():
    for identity, _ in people(20):
        assert identity.vector.dtype == np.float32
        assert ((identity.vector >= 0) & (identity.vector <= 1)).all()
        assert DrawnPerson.from_vector(identity.vector) == identity
        named = {trait.name: identity.category(trait.name) for trait in IDENTITY_TRAITS if trait.values}
        assert identity.replace(**named) == identity


@pytest.mark.parametrize("vector", [np.zeros(3), np.full(len(IDENTITY_TRAITS), np.nan)])
def test_identity_rejects(vector):
    with pytest.raises(ValueError, match="identity vector"):
        DrawnPerson.from_vector(vector)


def test_identity_is_immutable_and_names_bad_traits():
    identity = people(1)[0][0]
    with pytest.raises(ValueError):
        identity.vector[0] = 0.5
    with pytest.raises(ValueError, match="no trait"):
        identity.replace(horns=1.0)
    with pytest.raises(ValueError, match="cannot be 'huge'"):
        identity.replace(beard="huge")


def test_every_category_is_sampled():
    rng = np.random.default_rng(1)
    sampled = [DrawnPerson.sample(rng) for _ in range(300)]
    for trait in IDENTITY_TRAITS:
        if trait.values:
            assert {identity.category(trait.name) for identity in sampled} == set(trait.values)


def test_scene_rejects_and_fixes():
    with pytest.raises(ValueError, match="place cannot be 'moon'"):
        Scene(place="moon")
    with pytest.raises(ValueError, match="yaw must lie"):
        Scene(yaw=2.0)
    free, fixed = (Scene.sample(np.random.default_rng(4), **kwargs) for kwargs in ({}, {"place": "city"}))
    assert fixed.place == "city"
    assert (free.yaw, free.seed, free.clothes) == (fixed.yaw, fixed.seed, fixed.clothes)


def test_render_is_deterministic():
    for identity, scene in people(4):
        first, second = render(identity, scene), render(identity, scene)
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.face_mask, second.face_mask)
        assert np.array_equal(first.landmarks, second.landmarks)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_shapes_and_labels_inside(size):
    for identity, scene in people(60, seed=size):
        drawn = render(identity, scene, size=size)
        assert drawn.image.shape == (size, size, 3)
        assert drawn.image.dtype == np.uint8
        assert drawn.face_mask.shape == (size, size)
        assert set(np.unique(drawn.face_mask)) == {0, 255}
        assert drawn.landmarks.shape == (5, 2)
        assert drawn.landmarks.dtype == np.float32
        left_eye, right_eye, nose, left_mouth, right_mouth = drawn.landmarks
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        for x, y in drawn.landmarks:
            assert drawn.face_mask[int(y), int(x)] == 255
        border = np.concatenate(
            [drawn.face_mask[0], drawn.face_mask[-1], drawn.face_mask[:, 0], drawn.face_mask[:, -1]]
        )
        assert not border.any(), (identity, scene)


def test_largest_heads_stay_inside():
    for style in ("parted", "curly", "bob", "long", "bun", "mohawk"):
        identity = people(1)[0][0].replace(hair_style=style, face_width=1.0, ear_size=1.0, beard="goatee")
        for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            for roll in (-1, 1):
                scene = Scene(
                    face_size=0.72, offset_x=corner[0], offset_y=corner[1], roll=roll, yaw=roll, pitch=corner[1]
                )
                mask = render(identity, scene).face_mask
                border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
                assert not border.any(), (style, scene)


@pytest.mark.parametrize("trait", IDENTITY_TRAITS, ids=lambda trait: trait.name)
def test_trait_shows_in_the_head_only(trait):
    base = DrawnPerson.from_vector(np.full(len(IDENTITY_TRAITS), 0.5)).replace(
        hair_style="short", glasses="round", beard="none"
    )
    first, second = (render(base.replace(**{trait.name: value}), Scene()) for value in (0.0, 1.0))
    changed = (first.image != second.image).any(axis=2)
    head = (first.face_mask > 0) | (second.face_mask > 0)
    assert changed[head].sum() > 20
    # One pixel of antialiasing around the head, and the neck, which has the skin's colour.
    if not trait.name.startswith("skin"):
        near = head.copy()
        for axis in (0, 1):
            near |= np.roll(near, -1, axis) | np.roll(near, 1, axis)
        assert not (changed & ~near).any()


def test_scene_changes_spare_the_head():
    identity = people(1)[0][0]
    first, second = render(identity, Scene(place="forest")), render(identity, Scene(place="space"))
    assert np.array_equal(first.face_mask, second.face_mask)
    inside = first.face_mask[1:-1, 1:-1] & first.face_mask[:-2, 1:-1] & first.face_mask[2:, 1:-1]
    inside &= first.face_mask[1:-1, :-2] & first.face_mask[1:-1, 2:]
    changed = (first.image != second.image).any(axis=2)[1:-1, 1:-1]
    assert not changed[inside > 0].any()
    assert changed[inside == 0].mean() > 0.3


def test_yaw_turns_and_light_falls_from_the_named_side():
    identity = people(1)[0][0].replace(glasses="none")
    left, right = (render(identity, Scene(yaw=yaw)).landmarks for yaw in (-1.0, 1.0))
    assert right[2, 0] > left[2, 0] + 10
    left, right = (render(identity, Scene(light=light)).image[:, :40].astype(float).mean() for light in (-1.0, 1.0))
    assert left > right


def test_sketch_is_nearly_colourless():
    identity = people(1)[0][0]
    spread = {
        medium: float(np.ptp(render(identity, Scene(medium=medium)).image.astype(int), axis=2).mean())
        for medium in MEDIUMS
    }
    assert spread["sketch"] < 0.4 * spread["photo"]
    assert spread["painting"] > 0.6 * spread["photo"]


def test_domain_randomise():
    image = render(*people(1)[0]).image
    before = image.copy()
    first, second = (domain_randomise(image, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert np.array_equal(image, before)
    assert not np.array_equal(first, domain_randomise(image, np.random.default_rng(6)))
    with pytest.raises(ValueError, match="uint8"):
        domain_randomise(image.astype(np.float32), np.random.default_rng(0))


def test_caption_says_the_scene():
    plain = caption(Scene(place="forest", clothes="red", expression="smile"))
    assert plain == "a photo of a person in the forest wearing a red shirt, smiling"
    rng = np.random.default_rng(0)
    for _, scene in people(60, seed=3):
        words = caption(scene, rng=rng)
        assert scene.place in words
        assert scene.clothes in words


def test_captions_stay_in_the_vocabulary():
    rng = np.random.default_rng(0)
    assert len(set(VOCABULARY)) == len(VOCABULARY) < 200
    assert sorted(VOCABULARY) == VOCABULARY
    used = set()
    for identity, scene in people(400, seed=9):
        words = caption(scene, identity, rng=rng, trait_probability=1.0).replace(",", "").split()
        used.update(words)
    assert used <= set(VOCABULARY)
    assert set(VOCABULARY) <= used, "a word that no caption contains would never be learned"


def test_trait_probability():
    identity, scene = people(1)[0]
    rng = np.random.default_rng(0)
    everything = caption(scene, identity, rng=rng, trait_probability=1.0)
    assert all(phrase in everything for phrase in trait_phrases(identity))
    lengths = [len(caption(scene, identity, rng=rng, trait_probability=p).split()) for p in (0.0, 0.5, 1.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]
    with pytest.raises(ValueError, match="needs the identity"):
        caption(scene, trait_probability=0.5)


def test_tokenize():
    tokenize = Vocabulary(()).tokenize
    ids = tokenize("A photo, of a PERSON; xylophone!")
    assert ids[0] == START_ID
    assert ids[-1] == END_ID
    assert [VOCABULARY[index - 2] for index in ids[1:-1]] == ["a", "photo", "of", "a", "person"]
    assert tokenize("the woods") == tokenize("the forest")
    assert tokenize("") == [START_ID, END_ID]
    assert set(SYNONYMS.values()) <= set(VOCABULARY)
    assert not set(SYNONYMS) & set(VOCABULARY)
    for words in (PLACES, CLOTHES, EXPRESSIONS):
        assert all(len(tokenize(word)) == 3 for word in words)


def test_a_phrase_is_one_token():
    vocabulary = Vocabulary()
    names = list(vocabulary.ids)

    def read(text, **options):
        return [names[index] for index in vocabulary.tokenize(text, **options)[1:-1]]

    assert read("long deep black hair, with thick eyebrows") == ["long", "deep black hair", "with", "thick brows"]
    assert read("black hair; wide set green eyes") == ["black hair", "wide", "set", "green eyes"]
    assert read("round red glasses") == ["round red glasses"]
    assert read("round glasses, red") == ["round", "glasses", "red"]
    assert read("thick brows", phrases=False) == ["thick", "brows"]


def test_a_text_encoder_of_each_version_has_its_vocabulary():
    for phrases in ((), PHRASES):
        own = Vocabulary(phrases)
        assert Vocabulary.of_size(len(own)).ids == own.ids
        assert len(own) == 2 + len(VOCABULARY) + len(phrases)
    with pytest.raises(PIDiffError, match="has 7 tokens"):
        Vocabulary.of_size(7)


def test_unknown_words_leave_out_fillers_and_synonyms():
    assert unknown_words("A wizard and his wizard hat, in the woods; he has 2 eyebrows") == ["wizard", "hat"]
    assert unknown_words("") == []
    assert not FILLER_WORDS & {*VOCABULARY, *SYNONYMS}


def test_the_vocabulary_is_every_word_of_a_caption():
    assert caption_words() == VOCABULARY
    assert caption_phrases() == list(PHRASES)
    assert all(set(phrase.split()) <= set(VOCABULARY) for phrase in PHRASES)
