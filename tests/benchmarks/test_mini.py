"""What the embedded model's benchmark measures, on pictures whose answer is known."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from benchmarks.mini import Measure, table
from benchmarks.mini_measures import (
    CHOICES,
    FINE,
    chance,
    gradient_energy,
    intersection_over_union,
    pairwise_difference,
    share_right,
    trait_measures,
)
from benchmarks.mini_studio import Studio
from drawn_world.data import World
from drawn_world.drawn_person import TRAIT_INDEX
from drawn_world.readers import HeadReader, Readers, SceneReader, TraitReader, trait_targets

PEOPLE = [World(seed=7, people=30, scenes=1).person(index) for index in range(30)]


def test_gradient_energy_of_a_ramp():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    assert gradient_energy(ramp) == pytest.approx(1.0)
    assert gradient_energy(0.5 * ramp) == pytest.approx(0.25)
    assert gradient_energy(torch.ones(1, 3, 8, 8)) == 0


def test_intersection_over_union():
    first = torch.zeros(3, 4, 4, dtype=torch.bool)
    second = first.clone()
    first[0, :2], second[0, 1:3] = True, True  # a row in common of three
    first[1, 0] = True  # nothing in common
    assert intersection_over_union(first, second).tolist() == pytest.approx([1 / 3, 0, 1])


def test_pairwise_difference():
    images = torch.stack([torch.full((4, 4, 3), value) for value in (0.0, 0.5, 1.0)])
    assert float(pairwise_difference(images)) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_trait_measures_of_the_truth_and_of_the_opposite():
    truth = trait_targets(PEOPLE)
    assert trait_measures(truth, PEOPLE) == pytest.approx({"fine": 1.0, **dict.fromkeys(CHOICES, 1.0)})
    wrong = -truth
    wrong[:, [TRAIT_INDEX[name] for name in CHOICES.values()]] = 99
    assert trait_measures(wrong, PEOPLE) == pytest.approx({"fine": -1.0, **dict.fromkeys(CHOICES, 0.0)})
    assert len(FINE) == 7


def test_chance_is_the_share_of_the_most_frequent_value():
    assert chance() == pytest.approx({"hair": 1 / 8, "beard": 0.34, "glasses": 0.34, "eyes": 1 / 5})


def test_the_table_shows_what_does_not_apply_as_a_dash():
    report = {"retrieval": 0.5, "rows": {"base": {"fine": 0.25, "scene": None}}, "codes": {"true w": {"fine": 0.75}}}
    lines = [line.split() for line in table(report).splitlines()]
    assert ["retrieval", "0.500"] in lines
    assert ["base", "0.250", "-"] in lines
    assert ["true", "w", "0.750"] in lines


def test_share_right_counts_each_prompts_own_wish():
    labels = [[{"place": "city"}, {"place": "room"}], [{"place": "room"}, {"place": "room"}]]
    assert share_right(labels, [{"place": "city"}, {"place": "room"}], "place") == 0.75


ASKED = {
    "retrieval", "base_retrieval", "retrieval_equal_colours", "similarity", "ceiling", "judge_accuracy",
    "fine_identity", "beard_identity", "glasses_identity", "hair_identity", "gradient_energy",
    "independent_found", "independent_auc",
}  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
def test_the_shipped_model_is_measured(comfy, pack):
    options = argparse.Namespace(
        identities=2, seed=0, steps=2, cfg=3.0, strength=1.0, preset="portrait", probed=30, sheet=None
    )
    # What they read is tested with the readers.
    untrained = Readers(TraitReader().eval(), SceneReader().eval(), HeadReader().eval())
    report = Measure(Studio(pack, options), untrained, options).report()
    assert set(report) >= ASKED
    assert json.loads(json.dumps(report)) == report
    rows = report["rows"]
    assert list(rows) == ["renders", "reconstruction", "base", "base, told", "identity"]
    assert rows["renders"]["retrieval"] == rows["renders"]["gradient_energy"] == 1.0
    assert 0.1 < rows["reconstruction"]["gradient_energy"] < 0.9
    assert rows["identity"]["similarity"] > rows["base"]["similarity"]
    assert rows["base"]["background_change"] is None
    assert 20 < report["autoencoder_db"] < 30
    assert 10 < report["codes"]["generator"]["db"] < 30
