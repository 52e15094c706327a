"""Two hundred jobs in one server: its memory stays flat, and the last picture is the first one."""

from __future__ import annotations

import itertools
import json

import pytest

import comfy_host
import soak


@pytest.mark.host
@pytest.mark.slow
def test_two_hundred_jobs_leave_memory_and_pictures_as_they_were(tmp_path):
    pytest.importorskip("skimage.data", reason="scikit-image, which carries the photo, is not installed")
    with comfy_host.ComfyServer(comfy_host.prepare(comfy_host.DEFAULT), base=tmp_path) as server:
        report = soak.soak(server, soak.portraits(), jobs=200, steps=2)
    assert report["first_is_last"], report
    assert report["memory_is_flat"], report


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
