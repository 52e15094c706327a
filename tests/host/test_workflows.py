"""Every shipped workflow goes through the queue of a real server, and what it makes is what it promises."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

import demo
import make_workflows


def picture(server, result, node_id):
    """The first picture of an output node as float64 (H, W, 3) in [0, 1]."""
    data = server.fetch_image(result.images(node_id)[0])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255.0


@pytest.fixture
def mini(api_workflow, server, photo):
    """The shipped mini workflow, ready to queue, with few steps."""
    workflow = api_workflow("pidiff_mini")
    workflow["2"]["inputs"]["image"] = server.upload_image(photo)
    workflow["8"]["inputs"]["steps"] = 4
    return workflow


def test_mini_draws_a_picture_a_crop_and_a_portrait(server, mini):
    result = server.run(mini)
    drawn = picture(server, result, "10")
    assert drawn.shape == (128, 128, 3)
    for node_id in ("10", "11", "13"):
        assert picture(server, result, node_id).std() > 0.02


def test_the_identity_changes_the_picture_and_strength_zero_does_not(server, mini):
    with_identity = picture(server, server.run(mini), "10")
    plain = picture(server, server.run(demo.without_identity(mini)), "10")
    mini["4"]["inputs"]["strength"] = 0.0
    assert np.array_equal(picture(server, server.run(mini), "10"), plain)
    assert np.abs(with_identity - plain).mean() > 0.005


def test_same_seed_same_picture_after_another_graph(server, mini):
    first = picture(server, server.run(mini), "10")
    server.run(demo.with_prompt(mini, "a sketch of a person in space", 7))
    assert np.array_equal(picture(server, server.run(mini), "10"), first)


def test_the_graph_format_is_what_the_maker_writes(server, root):
    """The shipped graphs fit this host's nodes: same slots, same widgets, nothing left over."""
    object_info = server.object_info()
    for path in sorted((root / "workflows" / "api").glob("*.json")):
        workflow = json.loads(path.read_text())
        made = make_workflows.graph_from_api(workflow, object_info, note=make_workflows.NOTES[path.stem])
        assert json.loads((root / "workflows" / path.name).read_text()) == json.loads(json.dumps(made))
