"""What a running ComfyUI makes of the pack: nodes, tooltips, help pages, translations, templates."""

from __future__ import annotations

import json
import re
import urllib.parse

import pytest

NODES = (
    "LoadPIDiff",
    "EncodeIdentityW+",
    "ApplyIdentityAdapter",
    "StyleEdit",
    "PIDiffPreviewCodes",
    "PIDiffLoadMini",
    "PIDiffFindDirections",
    "PIDiffGrid",
    "PIDiffImageFromText",
    "PIDiffLikeness",
    "PIDiffPastePortrait",
    "PIDiffSaveCodes",
    "PIDiffLoadCodes",
    "PIDiffListCodes",
    "PIDiffLocalise",
    "PIDiffMeanCodes",
    "PIDiffWalkCodes",
    "PIDiffTuneIdentity",
)


def test_the_pack_loads_without_a_complaint(server):
    log = server.log().replace("\\", "/")
    ours = [line for line in log.splitlines() if "custom_nodes/pidiff" in line]
    assert ours
    assert not [line for line in ours if "FAILED" in line or "Cannot import" in line]


@pytest.mark.parametrize("node_id", NODES)
def test_every_input_of_every_node_has_a_tooltip(server, node_id):
    info = server.object_info(node_id)[node_id]
    assert info["category"].split("/")[0] == "PIDiff"
    assert info["display_name"]
    assert info["description"]
    for name, declaration in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
        assert len(declaration) > 1, name
        assert declaration[1].get("tooltip", "").strip(), name


def test_no_other_nodes_come_with_the_pack(server):
    ours = {name for name, info in server.object_info().items() if info["python_module"] == "custom_nodes.pidiff"}
    assert ours == set(NODES)


@pytest.mark.parametrize("node_id", NODES)
def test_every_node_has_a_help_page_where_the_front_end_looks(server, node_id):
    # Unquoted first: the front end puts the id into the address as it is, a plus sign included.
    for name in (node_id, urllib.parse.quote(node_id)):
        for page in (f"{name}/zh.md", f"{name}.md"):
            text = server.request(f"/extensions/pidiff/docs/{page}").decode()
            assert text.startswith("# ")
            assert len(text) > 200
            for shown in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):  # the front end's base for all languages
                assert server.request(urllib.parse.urljoin("/extensions/pidiff/docs/", shown)).startswith(b"\xff\xd8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_translations_cover_every_input(server, language):
    served = server.get_json("/i18n")[language]
    assert served["nodeCategories"]["PIDiff"]
    for node_id in NODES:
        info = server.object_info(node_id)[node_id]
        translated = served["nodeDefs"][node_id]
        assert translated["display_name"]
        assert translated["description"]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert set(translated.get("inputs", {})) == set(inputs)
        for name, entry in translated.get("inputs", {}).items():
            assert entry["tooltip"].strip(), (node_id, name)
        assert set(translated.get("outputs", {})) == {str(slot) for slot in range(len(info["output"]))}
    if language == "en":  # what the node says itself and what the English file says must not drift apart
        for node_id in NODES:
            info = server.object_info(node_id)[node_id]
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            for name, entry in served["nodeDefs"][node_id].get("inputs", {}).items():
                assert entry["tooltip"] == inputs[name][1]["tooltip"]


def test_workflows_are_offered_as_templates(server, root):
    offered = server.get_json("/workflow_templates")["pidiff"]
    assert sorted(offered) == sorted(path.stem for path in (root / "workflows").glob("*.json"))
    for name in offered:
        assert json.loads(server.request(f"/api/workflow_templates/pidiff/{name}.json"))["nodes"]
