"""Clients that queue good and bad jobs at once: pictures, memory, files and sockets are as they were."""

from __future__ import annotations

import itertools
import json

import pytest

import comfy_host
import soak


@pytest.mark.host
@pytest.mark.slow
def test_eight_clients_get_the_pictures_of_lone_runs_and_leave_nothing():
    pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    report = soak.soak(comfy_host.prepare(), soak.portraits(), jobs=150, clients=8, steps=2)
    assert report["passed"], report
    assert (report["good"], report["bad"]) == (120, 30)


def test_people_sizes_and_strengths_meet_in_every_combination():
    workflow = json.loads(soak.WORKFLOW.read_text())

    def value(job, kind, name):
        return next(node["inputs"][name] for node in job.values() if node["class_type"] == kind)

    seen = []
    for number in range(36):
        job = soak.job_of(workflow, number, names=["a", "b", "c"], steps=1)
        size = value(job, "EmptyLatentImage", "width"), value(job, "EmptyLatentImage", "height")
        seen.append((value(job, "LoadImage", "image"), size, value(job, "ApplyIdentityAdapter", "strength")))
    assert len(set(seen)) == 3 * len(soak.SIZES_PX) * len(soak.STRENGTHS)
    assert all(before[0] != after[0] for before, after in itertools.pairwise(seen))
