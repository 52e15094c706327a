"""The report of known faults: a package without an answer is never taken for one without a fault."""

from __future__ import annotations

import audit


def test_faults_and_missing_answers_are_told_apart():
    answers = [
        {"name": "one", "version": "1.0", "vulns": []},
        {"name": "two", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]},
        {"name": "three", "skip_reason": "Dependency not found on PyPI"},
    ]
    report = audit.summary({"one": "1.0", "two": "2.0", "three": "3.0", "four": "4.0"}, answers)
    assert report["faults"] == {"two": ["PYSEC-1"]}
    assert report["not_looked_up"] == ["four", "three"]
