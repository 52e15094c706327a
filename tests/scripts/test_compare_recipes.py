"""The table and the plot of the comparison, from figures that are known."""

from __future__ import annotations

import importlib
import sys
from xml.etree import ElementTree

import pytest


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    yield importlib.import_module("compare_recipes")
    sys.modules.pop("compare_recipes", None)


def run(similarities, backgrounds):
    strengths = ("0.6", "0.8", "1.0", "1.25")
    rest = {"retrieval": 0.5, "iou": 0.75, "text": 1.0}
    return {
        strength: {"similarity": similarity, "background": background, **rest}
        for strength, similarity, background in zip(strengths, similarities, backgrounds)
    }


GOOD = [run([0.2, 0.4, 0.6, 0.7], [0.01, 0.02, 0.03, 0.05]), run([0.2, 0.4, 0.8, 0.9], [0.01, 0.02, 0.03, 0.05])]
WEAK = [run([0.1, 0.2, 0.3, 0.4], [0.02, 0.04, 0.06, 0.10])]


def test_background_between_measured_strengths_and_where_none_reaches(script):
    assert script.background_at(GOOD[0], 0.5) == pytest.approx(0.025)
    assert script.background_at(GOOD[0], 0.1) == pytest.approx(0.005)  # weaker than the weakest: towards nothing
    assert script.background_at(WEAK[0], 0.5) is None


def test_the_table_holds_mean_spread_and_equal_similarity(script):
    lines = script.table({"PIDiff": GOOD, "other": WEAK}).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:2] == ["PIDiff", "0.700 ± 0.141"]
    assert cells[4] == "0.020 ± 0.000"  # at 0.4, the best that every recipe reaches
    assert cells[-1] == "2"
    assert "0.100" in lines[3]


def test_the_plot_is_a_picture_with_a_line_for_every_recipe(script):
    picture = ElementTree.fromstring(script.plot({"PIDiff": GOOD, "other": WEAK}))
    assert len(picture.findall("{*}polyline")) == 2
    assert len(picture.findall("{*}circle")) == 8
