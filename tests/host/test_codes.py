"""People as files, through the queue of a real server: saved in one job, listed and loaded in others."""

from __future__ import annotations

import pytest


@pytest.fixture
def person(api_workflow, server, photo):
    """The part of the shipped mini workflow that reads the person off a photo: (nodes, link to the codes)."""
    workflow = api_workflow("pidiff_mini")
    encode = next(node_id for node_id, node in workflow.items() if node["class_type"] == "EncodeIdentityW+")
    nodes = {encode: workflow[encode]}
    for value in workflow[encode]["inputs"].values():
        if isinstance(value, list):
            nodes[value[0]] = workflow[value[0]]
    load_image = next(node for node in nodes.values() if node["class_type"] == "LoadImage")
    load_image["inputs"]["image"] = server.upload_image(photo)
    return nodes, [encode, 0]


def listed(server, pattern):
    """The text that Preview Any shows of a listing, and the listed names."""
    job = {
        "1": {"class_type": "PIDiffListCodes", "inputs": {"pattern": pattern}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    result = server.run(job)
    assert result.outputs.get("1", result.outputs["2"])["text"] == result.outputs["2"]["text"]
    return result.outputs["2"]["text"][0], result.outputs["3"]["text"][0].splitlines()


def test_a_saved_person_is_listed_and_loaded(server, person):
    nodes, codes = person
    folder = f"people-{server.host.name}"
    assert listed(server, folder) == ("No saved people were found.", [])
    save = {"class_type": "PIDiffSaveCodes", "inputs": {"wplus": codes, "filename_prefix": f"{folder}/anna"}}
    server.run({**nodes, "90": save})

    text, names = listed(server, folder)  # the same job again: it notices that there is a new file
    assert names == [f"{folder}/anna_00001_.safetensors [output]"]
    for word in ("mini-64", "1 person", "1 photo", "encoder: ", "photo SHA-256: "):
        assert word in text

    load = {"class_type": "PIDiffLoadCodes", "inputs": {"file": names[0], "kind": "absolute"}}
    again = {"class_type": "PIDiffSaveCodes", "inputs": {"wplus": ["1", 0], "filename_prefix": f"{folder}/anna"}}
    server.run({"1": load, "2": again})
    (first, second) = (
        (server.base / "output" / name.removesuffix(" [output]")).read_bytes() for name in listed(server, folder)[1]
    )
    assert first == second
