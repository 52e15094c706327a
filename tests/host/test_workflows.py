"""Every shipped workflow goes through the queue of a real server, and what it makes is what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

import demo
import make_pictures
import make_workflows
from workflow_layouts import LAYOUTS


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


@pytest.fixture(scope="module")
def drawn_photos(tmp_path_factory):
    """Two drawn people, as photos."""
    folder = tmp_path_factory.mktemp("drawn")
    return [make_pictures.drawn_person(folder, **person) for person in (make_pictures.FIRST, make_pictures.SECOND)]


def with_photos(server, workflow, photos, *, steps):
    """The workflow with these photos in its LoadImage nodes, read by the model's own detector, and with few steps."""
    photos = iter(photos)
    for node in workflow.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = server.upload_image(next(photos))
        elif node["class_type"] == "EncodeIdentityW+":
            node["inputs"]["detector"] = "model"
        elif node["class_type"] == "KSampler":
            node["inputs"]["steps"] = steps
        elif node["class_type"] == "PIDiffLocalise":
            node["inputs"]["steps"] = 2
    return workflow


def test_two_people_stand_side_by_side_and_their_maps_lie_on_them(server, api_workflow, drawn_photos, picture):
    workflow = with_photos(server, api_workflow("pidiff_two_people"), drawn_photos, steps=8)
    result = server.run(workflow)
    drawn, left_map, right_map = (picture(result, node_id) for node_id in ("17", "20", "21"))
    assert drawn.shape == left_map.shape == right_map.shape == (128, 256, 3)
    of_left, of_right = np.abs(left_map - drawn).mean(axis=(0, 2)), np.abs(right_map - drawn).mean(axis=(0, 2))
    assert of_left[:128].mean() > 3 * of_left[128:].mean()
    assert of_right[128:].mean() > 3 * of_right[:128].mean()
    # Exchanged photos: the other person's colours on each side.
    workflow["6"]["inputs"]["wplus"], workflow["7"]["inputs"]["wplus"] = ["5", 0], ["4", 0]
    exchanged = picture(server.run(workflow), "17")
    for half in (drawn[:, :128] - exchanged[:, :128], drawn[:, 128:] - exchanged[:, 128:]):
        assert np.abs(half).mean() > 0.02


def test_a_head_is_drawn_into_a_picture_and_nothing_else_changes(server, api_workflow, drawn_photos, picture):
    workflow = with_photos(server, api_workflow("pidiff_detail_face"), drawn_photos[:1], steps=8)
    workflow["90"] = {"class_type": "MaskToImage", "inputs": {"mask": ["13", 0]}}
    workflow["91"] = {"class_type": "PreviewImage", "inputs": {"images": ["90", 0]}}
    result = server.run(workflow)
    before, after, head = (picture(result, node_id) for node_id in ("10", "18", "91"))
    inside = head[..., 0] > 0.5
    assert 0.1 < inside.mean() < 0.6
    assert np.array_equal(before[~inside], after[~inside])
    assert np.abs(before[inside] - after[inside]).mean() > 0.03


def test_the_graph_format_is_what_the_maker_writes(server, root):
    """The shipped graphs fit this host's nodes: same slots, same widgets, nothing left over."""
    object_info = server.object_info()
    for path in sorted((root / "workflows" / "api").glob("*.json")):
        workflow = json.loads(path.read_text())
        assert make_workflows.with_defaults(workflow, object_info) == workflow
        made = make_workflows.graph_from_api(workflow, object_info, layout=LAYOUTS[path.stem])
        assert json.loads((root / "workflows" / path.name).read_text()) == json.loads(json.dumps(made))
