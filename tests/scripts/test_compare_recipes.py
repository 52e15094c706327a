"""The table and the plot of the comparison, from figures that are known."""

from __future__ import annotations

import argparse
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


def test_figures_are_kept_and_found_again(script, tmp_path):
    options = argparse.Namespace(docs=tmp_path, steps=(5, 7), people=4000, unseen=50, sampling_steps=20)
    assert script.stored(options) == {}
    runs = {"W+ Adapter": {"0": WEAK[0]}, "PIDiff": {"0": GOOD[0], "1": GOOD[1]}}
    script.keep(runs, options)
    assert script.stored(options) == runs
    assert sorted(file.name for file in tmp_path.iterdir()) == ["comparison.json", "comparison.md", "comparison.svg"]
    rows = [line for line in (tmp_path / "comparison.md").read_text(encoding="utf-8").splitlines() if "±" in line]
    assert rows[0].startswith("| PIDiff |")
    assert rows[0].endswith("| 2 |")
    assert "12 steps of 32" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_figures_of_other_settings_are_not_mixed_in(script, tmp_path):
    options = argparse.Namespace(docs=tmp_path, steps=(5, 7), people=4000, unseen=50, sampling_steps=20)
    script.keep({"PIDiff": {"0": GOOD[0]}}, options)
    options.steps = (5, 8)
    with pytest.raises(SystemExit, match=r"'steps': \[5, 7\].*expected.*'steps': \[5, 8\]"):
        script.stored(options)
