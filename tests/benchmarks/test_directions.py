"""What the benchmark of the directions measures, on people whose attributes are known, and on the shipped model."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.directions import (
    NO_EDIT,
    accuracy,
    direction_row,
    effect,
    likeness,
    measure,
    moved_share,
    spearman,
    swap_shares,
    table,
)
from drawn_world.data import World
from drawn_world.portraits import DIRECTIONS
from drawn_world.readers import HeadReader, Readers, SceneReader, TraitReader, head_targets, trait_targets
from pidiff_core.wplus.codes import WPlus, WPlusSpace
from pidiff_core.wplus.directions import Direction

SPACE = WPlusSpace("test", 10, 4)
PEOPLE = WPlus(torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(10, 4), SPACE)


def read(wplus):
    """Nose and skin are read from the first style's first number, glasses from the last style's second one."""
    glasses = (wplus.codes[:, 9, 1:2] * 0.05 + 0.5).clamp(0, 1)
    return {
        "nose_width": wplus.codes[:, 0, :1],
        "skin_tone": 0.25 * wplus.codes[:, 0, :1],
        "glasses": torch.cat([1 - glasses, glasses, torch.zeros(len(wplus), 2)], dim=1),
        "glasses_colour": torch.cat([1 - glasses, glasses], dim=1),
    }


def test_a_direction_moves_its_own_attribute_and_others_by_a_known_part():
    vector = torch.zeros(1, 4)
    vector[0, 0] = 0.5
    row = direction_row(PEOPLE, Direction("nose", vector), read=read, most=2.0, own="nose_width", ends=(0.0, 1.0))
    assert row["spearman"] == row["spearman_of_mean"] == 1.0
    assert row["effect"] == pytest.approx(1.0)  # from -1 to 1: half of a range of two
    assert (row["others"], row["most_other"]) == (pytest.approx(0.25), "skin_tone")
    row = direction_row(PEOPLE, Direction("nose", -vector), read=read, most=2.0, own="nose_width", ends=(0.0, 1.0))
    assert row["spearman"] == -1.0


def test_a_choice_is_scored_by_its_two_ends_and_its_parts_do_not_count():
    vector = torch.zeros(1, 4)
    vector[0, 1] = 1.0
    row = direction_row(
        PEOPLE, Direction("glasses", vector), read=read, most=2.0, own="glasses", ends=("none", "round")
    )
    assert row["spearman"] == 1.0
    assert row["effect"] == pytest.approx(0.2)
    assert row["others"] == 0.0
    opposite = direction_row(
        PEOPLE, Direction("glasses", vector), read=read, most=2.0, own="glasses", ends=("round", "none")
    )
    assert opposite["spearman"] == -1.0


def test_spearman_with_ties_and_of_constants():
    rising = torch.arange(7.0)
    assert spearman(rising.exp(), rising) == pytest.approx(1.0)
    assert spearman(torch.tensor([1.0, 2, 3, 4, 5, 7, 6]), rising) == pytest.approx(1 - 6 * 2 / (7 * 48))
    assert spearman(torch.ones(7), rising) == 0.0
    assert spearman(torch.tensor([0.0, 0, 0, 0, 1, 1, 1]), rising) == pytest.approx(0.866, abs=1e-3)


def test_effect_is_a_part_of_the_range_or_total_variation():
    assert effect(torch.tensor([[-1.0], [0.0]]), torch.tensor([[0.0], [1.0]])) == pytest.approx(0.5)
    assert effect(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.4, 0.6]])) == pytest.approx(1.0)


def test_swaps_move_what_their_level_holds():
    shares = swap_shares(PEOPLE, read=read)
    assert shares["coarse"]["nose_width"] == shares["fine"]["glasses"] == 1.0
    assert shares["medium"] == {"nose_width": 0, "skin_tone": 0, "glasses": 0, "glasses_colour": 0}
    own, other = torch.randn(8, 3), torch.randn(8, 3)
    assert moved_share(own, other, own.lerp(other, 0.3)) == pytest.approx(0.3)


def test_accuracy_of_the_truth_is_one_for_every_attribute():
    world = World(seed=5, people=40, scenes=1)
    persons, scenes = [world.person(i) for i in range(40)], [world.scene(i) for i in range(40)]
    readers = Readers(TraitReader().eval(), SceneReader().eval(), HeadReader().eval())
    numbers, labels = head_targets(scenes)
    truth = torch.cat([trait_targets(persons), numbers, labels], dim=1)
    shapes = readers.read_attributes(torch.zeros(1, 3, 64, 64))
    reading = {
        name: torch.nn.functional.one_hot(truth[:, column].long(), part.shape[1]).float()
        if part.shape[1] > 1
        else truth[:, column, None]
        for column, (name, part) in enumerate(shapes.items())
    }
    assert accuracy(reading, persons, scenes) == dict.fromkeys(shapes, 1.0)


@pytest.mark.slow
def test_the_shipped_model_is_measured():
    torch.manual_seed(0)
    readers = Readers(TraitReader().eval(), SceneReader().eval(), HeadReader().eval())  # see test_readers.py
    report = measure(3, readers)
    assert json.loads(json.dumps(report)) == report
    rows = report["directions"]
    assert set(rows) == set(DIRECTIONS)
    offered = {name: row for name, row in rows.items() if row is not None}  # whose change is clear enough
    assert offered
    assert all([row["own"]] == list(DIRECTIONS[name][0]) for name, row in offered.items())
    assert all(row["most_other"] != row["own"] for row in offered.values())
    assert list(report["swaps"]) == ["coarse", "medium", "fine"]
    assert set(report["swaps"]["fine"]) == set(report["read"])
    assert len(table(report).splitlines()) == 2 + len(rows) + 3 + len(report["read"])


@pytest.mark.slow
def test_pictures_of_edited_people_are_judged(comfy, pack):
    readers = Readers(TraitReader().eval(), SceneReader().eval(), HeadReader().eval())  # not used
    found = likeness(pack, 2, readers, {"turn": 0.0, "skin tone": 3.0}, steps=3)
    assert list(found) == [NO_EDIT, "turn", "skin tone"]
    assert found["turn"] == found[NO_EDIT]
    assert found["skin tone"]["similarity"] < found[NO_EDIT]["similarity"]
