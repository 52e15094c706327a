"""The previews of StyleEdit's sliders: the same codes as the queue's, bounded, and a sentence for every error."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

EDITS = {"directions": {"glasses": 1.5, "Long Hair.npy": 0.4}, "mix": {"coarse": 0.0, "medium": 0.5, "fine": 0.5}}


@pytest.fixture(scope="module")
def edit(comfy, pack, mini):
    pack.load("nodes.host.folders").register()
    return SimpleNamespace(
        node=pack.load("nodes.edit").StyleEdit,
        preview=pack.load("nodes.host.edit_preview"),
        routes=pack.load("nodes.host.edit_routes"),
        decode=pack.load("pidiff_core.pipeline").decode,
        model=mini.pidiff_model,
        codes=mini.wplus,
        error=pack.load("pidiff_core.errors").PIDiffError,
    )


def run(edit, edits="", *, model=None, **inputs):
    inputs = {"direction": "none", "amount": 1.0, "coarse": True, "medium": True, "fine": True} | inputs
    made = edit.node.execute(edit.codes, model or edit.model, edits=edits, **inputs)
    return made.result[0], made.ui["pidiff_edit"][0]["key"]


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_preview_shows_the_codes_that_the_queue_makes(edit):
    queued, key = run(edit, json.dumps(EDITS), other=edit.codes.select(1), direction="Smile", amount=2.0, fine=False)
    named = {"directions": {"glasses": 1.5, "long hair": 0.4}, "mix": EDITS["mix"]}  # the panel has the exact names
    for person in (0, 1):
        shown = pixels(edit.preview.draw({"key": key, "edits": named, "person": person}))
        expected = edit.decode(edit.model, queued.select(person))[0].numpy() * 255
        assert np.abs(shown - expected).max() <= 1.0
    before = pixels(edit.preview.draw({"key": key, "edits": {"mix": {}}}))
    assert np.abs(before.astype(float) - shown).mean() > 2


def test_the_panel_lists_what_changes_the_portrait_by_level(edit):
    _, key = run(edit)
    listed = edit.preview.open_panel({"key": key})
    while listed["more"]:
        measured = sum(len(group["edits"]) for group in listed["levels"])
        listed = edit.preview.open_panel({"key": key})
        assert sum(len(group["edits"]) for group in listed["levels"]) >= measured
    assert [group["level"] for group in listed["levels"]] == ["coarse", "medium", "fine"]
    edits = [entry for group in listed["levels"] for entry in group["edits"]]
    assert {"glasses", "smile"} <= {entry["name"] for entry in edits} <= set(edit.model.directions)
    assert len(edits) < len(edit.model.directions), "edits that change nothing are left out"
    assert all(entry["unit"] <= entry["most"] <= 3.001 * entry["unit"] for entry in edits)
    assert (listed["people"], listed["other"]) == (2, False)
    # One unit is seen: at least VISIBLE in the pixels that change most, on the person that it was measured with.
    studio = edit.preview.studio_of(edit.model)
    portrait = studio.portrait(studio.average.codes, size_px=edit.preview.MEASURED_PX)
    for entry in edits:
        moved = studio.average.codes + entry["unit"] * edit.model.directions[entry["name"]]
        change = (studio.portrait(moved, size_px=edit.preview.MEASURED_PX) - portrait).abs().amax(dim=1).flatten() / 2
        assert change.topk(len(change) // 20).values.mean() > 0.15, entry["name"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"key": "unknown"}, "no longer in memory"),
        ({"key": None}, "no longer in memory"),
        ({"person": 2}, "person should be"),
        ({"person": True}, "person should be"),
        ({"edits": {"directions": {"nose": 1}}}, "was not there when the node ran"),
        ({"edits": {"directions": {"smile": 1e9}}}, "from -20 to 20"),
        ({"edits": "smile"}, "object with 'directions'"),
    ],
)
def test_a_request_that_is_wrong_is_a_sentence(edit, request_, message):
    _, key = run(edit)
    with pytest.raises(edit.error, match=message):
        edit.preview.draw({"key": key} | request_)


def test_only_the_last_runs_are_kept_and_models_are_not(edit, pack):
    keys = [run(edit)[1] for _ in range(edit.preview.MOST_RUNS + 1)]
    with pytest.raises(edit.error, match="Run the workflow again"):
        edit.preview.draw({"key": keys[0]})
    edit.preview.draw({"key": keys[1], "quick": True})
    model = pack.load("pidiff_core.mini.bundle").load_identity()
    _, key = run(edit, model=model)
    edit.preview.draw({"key": key})
    del model
    gc.collect()
    with pytest.raises(edit.error, match="no longer in memory"):
        edit.preview.draw({"key": key})


def test_codes_without_a_generator_get_no_panel_and_are_edited(edit, pack):
    import dataclasses

    bare = dataclasses.replace(edit.model, generator=None)
    edited, key = run(edit, '{"directions": {"smile": 1}}', model=bare)
    assert key is None
    assert not torch.equal(edited.codes, edit.codes.codes)


def test_the_list_has_minis_directions_and_no_age(edit, comfy):
    (choice,) = (entry for entry in edit.node.define_schema().inputs if entry.id == "direction")
    assert choice.options[0] == choice.default == "none"
    assert set(edit.model.directions) <= set(choice.options)
    assert not [name for name in choice.options if "age" in name.split()]
    np.save(comfy.base / "models" / "pidiff" / "older.npy", np.zeros((10, 128), dtype=np.float32))
    try:
        (choice,) = (entry for entry in edit.node.define_schema().inputs if entry.id == "direction")
        assert "older.npy" in choice.options
    finally:
        (comfy.base / "models" / "pidiff" / "older.npy").unlink()


def test_the_routes_are_bounded_and_answer_in_json(edit):
    from aiohttp import ClientSession, web

    _, key = run(edit)

    async def ask() -> list[tuple[int, str]]:
        async def answer(request):
            return await edit.routes.respond(
                request, lambda content: web.Response(body=edit.preview.draw(content), content_type="image/png")
            )

        app = web.Application()
        app.router.add_post("/draw", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/draw"
        found = []
        async with ClientSession() as session:

            async def post(body):
                async with session.post(address, data=body) as response:
                    return response.status, response.content_type, await response.read()

            for body in (json.dumps({"key": key}), "{", "[]", " " * 40_000, json.dumps({"key": "x"})):
                found.append(await post(body))
            crowd = await asyncio.gather(*(post(json.dumps({"key": key})) for _ in range(8)))
            found.append(sorted(status for status, _, _ in crowd))
        await runner.cleanup()
        return found

    good, broken, other, large, unknown, crowd = asyncio.run(ask())
    assert good[:2] == (200, "image/png")
    assert pixels(good[2]).shape == (64, 64, 3)
    for status, refusal in ((400, broken), (400, other), (413, large), (400, unknown)):
        assert refusal[:2] == (status, "application/json")
        assert json.loads(refusal[2])["error"].endswith(".")
    assert set(crowd) == {200, 429}
    assert crowd.count(200) >= edit.routes.MOST_WAITING
