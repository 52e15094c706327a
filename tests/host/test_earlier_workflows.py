"""Jobs that were written for version 0.1: today's server takes them, and they draw what today's workflows draw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from comfy_client import WorkflowError

FOLDER = Path(__file__).parent.parent / "data" / "version_0_1" / "workflows"


def quick(workflow, image):
    """The job with two steps and one seed and cfg, and this photo in its LoadImage nodes, read as a whole."""
    for node in workflow.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = image
        elif node["class_type"] == "EncodeIdentityW+":
            node["inputs"]["detector"] = "whole image"
        elif node["class_type"] == "KSampler":
            node["inputs"] |= {"steps": 2, "seed": 5, "cfg": 3.0}
        elif node["class_type"] == "PIDiffLocalise":
            node["inputs"]["steps"] = 2
    return workflow


@pytest.mark.parametrize("name", ["pidiff_mini", "pidiff_two_people", "pidiff_detail_face"])
def test_a_job_of_version_0_1_draws_the_same_as_todays_workflow(server, api_workflow, photo, picture, name):
    image = server.upload_image(photo)
    then = quick(json.loads((FOLDER / f"{name}.json").read_text()), image)
    node_id = next(node_id for node_id, node in then.items() if node["class_type"] == "SaveImage")
    drawn = picture(server.run(then), node_id)
    assert drawn.std() > 0.02
    assert np.array_equal(drawn, picture(server.run(quick(api_workflow(name), image)), node_id))


def test_the_job_for_stable_diffusion_is_accepted_and_ends_at_the_missing_weights(server, photo):
    """Validation passes; the files are empty, so that the first loader that runs fails."""
    workflow = quick(json.loads((FOLDER / "pidiff_sd15.json").read_text()), server.upload_image(photo))
    names = {"checkpoints": workflow["1"]["inputs"]["ckpt_name"]}
    files = [server.base / "models" / folder / name for folder, name in names.items()]
    files += [server.base / "models" / "pidiff" / workflow["14"]["inputs"][part] for part in ("adapter", "encoder")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    try:
        with pytest.raises(WorkflowError) as raised:
            server.run(workflow)
    finally:
        for file in files:
            file.unlink()
    assert raised.value.exception_type, raised.value.message  # empty for a job that validation refused
    assert raised.value.node_type in ("CheckpointLoaderSimple", "LoadPIDiff")
