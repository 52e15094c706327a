"""Every shipped workflow goes through the queue of a real server, and what it makes is what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

import demo
import make_workflows


@pytest.fixture
def mini(api_workflow, server, photo):
    """The shipped mini workflow, ready to queue, with few steps."""
    workflow = api_workflow("pidiff_mini")
    workflow["2"]["inputs"]["image"] = server.upload_image(photo)
    workflow["8"]["inputs"]["steps"] = 4
    return workflow


def test_mini_draws_a_picture_a_crop_and_a_portrait(server, mini, picture):
    result = server.run(mini)
    drawn = picture(result, "10")
    assert drawn.shape == (128, 128, 3)
    for node_id in ("10", "11", "13"):
        assert picture(result, node_id).std() > 0.02


def test_the_identity_changes_the_picture_and_strength_zero_does_not(server, mini, picture):
    with_identity = picture(server.run(mini), "10")
    plain = picture(server.run(demo.without_identity(mini)), "10")
    mini["4"]["inputs"]["strength"] = 0.0
    assert np.array_equal(picture(server.run(mini), "10"), plain)
    assert np.abs(with_identity - plain).mean() > 0.005


def test_same_seed_same_picture_after_another_graph(server, mini, picture):
    first = picture(server.run(mini), "10")
    server.run(demo.with_prompt(mini, "a sketch of a person in space", 7))
    assert np.array_equal(picture(server.run(mini), "10"), first)


def test_the_graph_format_is_what_the_maker_writes(server, root):
    """The shipped graphs fit this host's nodes: same slots, same widgets, nothing left over."""
    object_info = server.object_info()
    for path in sorted((root / "workflows" / "api").glob("*.json")):
        workflow = json.loads(path.read_text())
        made = make_workflows.graph_from_api(workflow, object_info, note=make_workflows.NOTES[path.stem])
        assert json.loads((root / "workflows" / path.name).read_text()) == json.loads(json.dumps(made))
