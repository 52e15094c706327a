"""The benchmark of the sliders measures every direction of mini."""

from __future__ import annotations

import json

import pytest

from benchmarks import edit


@pytest.mark.slow
def test_every_direction_has_a_range_or_is_not_offered(capsys):
    assert edit.main(["--repeats", "1", "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["mini_64px_s"] < report["1024_64px_s"] < report["1024_256px_s"]
    level, unit, most = report["reach"]["smile"]
    assert level in ("coarse", "medium", "fine")
    assert 0 < unit <= most <= 3.001 * unit
    assert None in report["reach"].values()
