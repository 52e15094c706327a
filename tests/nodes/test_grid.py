"""PIDiffGrid in ComfyUI: what its cells show, its labels, its checks, progress and interrupt."""

from __future__ import annotations

import pytest
import torch

STEPS = 2


@pytest.fixture(scope="module")
def grid(mini):
    vae = mini.pack.load("nodes").LoadMini.execute().result[2]

    def run(*, wplus=None, size=(16, 16), batch=1, **options):
        chosen = {
            "columns": "none", "column_values": "", "rows": "none", "row_values": "", "seed": 7, "steps": STEPS,
            "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "strength": 1.0, "direction": "none",
            "amount": 1.0, **options,
        }  # fmt: skip
        latent = {"samples": torch.zeros(batch, 4, *size)}
        wplus = mini.wplus.select(0) if wplus is None else wplus
        with torch.inference_mode():
            return mini.pack.load("nodes").Grid.execute(
                mini.model, mini.pidiff_model, wplus, mini.text, mini.empty, vae, latent, **chosen
            )

    return run


@pytest.fixture(scope="module")
def drawn_by_the_nodes(mini):
    """The same cell with Apply Identity Adapter and the KSampler."""
    import nodes as host_nodes

    vae = mini.pack.load("nodes").LoadMini.execute().result[2]

    def draw(codes=None, **options):
        patched = mini.apply(codes=mini.wplus.select(0) if codes is None else codes, **options)
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        with torch.inference_mode():
            out = host_nodes.common_ksampler(patched, 7, STEPS, 3.0, "euler", "normal", mini.text, mini.empty, latent)
            return vae.decode(out[0]["samples"])

    return draw


def test_every_cell_is_what_apply_and_the_sampler_draw(grid, drawn_by_the_nodes):
    output = grid(columns="strength", column_values="0 0.5 1", rows="start_percent", row_values="0, 0.6")
    whole, images = output.result
    assert images.shape == (6, 128, 128, 3)
    for index, (start, strength) in enumerate((start, strength) for start in (0.0, 0.6) for strength in (0.0, 0.5, 1)):
        expected = drawn_by_the_nodes(strength=strength, start_percent=start)
        assert torch.equal(images[index : index + 1], expected), (start, strength)
    assert torch.equal(images[0], images[3]), "strength 0 is the plain model"
    assert not torch.equal(images[1], images[2])
    # The grid: a band of labels above and one on the left, and between them the pictures as they are.
    above, left = whole.shape[1] - 2 * 128, whole.shape[2] - 3 * 128
    assert above == left == 18
    assert torch.equal(whole[0, above : above + 128, left + 256 :], images[2])
    assert torch.equal(whole[0, above + 128 :, left : left + 128], images[3])
    labels = [whole[0, :above, left + 128 * column : left + 128 * (column + 1)] for column in range(3)]
    assert all(label.max() > 0.9 for label in labels)
    assert not torch.equal(labels[0], labels[1])
    assert len(output.ui["images"]) == 1


def test_direction_level_and_amount_edit_as_style_edit_does(mini, grid, drawn_by_the_nodes):
    studio = mini.pack.load("nodes.host.edit_preview").studio_of(mini.pidiff_model)
    offered = mini.pack.load("nodes.host.direction_lists").offered_directions(mini.pidiff_model)
    unit = studio.reach(offered["glasses"]).unit
    axes = {"columns": "amount", "column_values": "0 1", "rows": "level", "row_values": "fine, all"}
    _, images = grid(**axes, direction="glasses").result
    apply_direction = mini.pack.load("pidiff_core.wplus.directions").apply_direction
    person = mini.wplus.select(0)
    plain = drawn_by_the_nodes()
    assert torch.equal(images[0:1], plain)
    assert torch.equal(images[2:3], plain)
    for index, levels in ((1, ["fine"]), (3, ["coarse", "medium", "fine"])):
        edited = apply_direction(person, offered["glasses"], amount=unit, levels=levels)
        assert torch.equal(images[index : index + 1], drawn_by_the_nodes(edited)), levels
    sheet = grid(columns="direction", column_values="none, glasses").result[1]
    assert torch.equal(sheet, images[2:4])


def test_empty_values_are_a_series(grid):
    whole, images = grid(rows="end_percent").result
    assert len(images) == 3
    assert whole.shape[1] == 3 * 128, "no labels above"
    assert len(grid(columns="preset", steps=1).result[1]) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "columns and rows are both 'none'"),
        ({"columns": "strength", "rows": "strength"}, "columns and rows are both 'strength'"),
        ({"columns": "colour"}, "columns should be one of none, strength"),
        ({"columns": "strength", "column_values": "0 much"}, "values of columns '0 much' are not numbers"),
        ({"columns": "strength", "column_values": "0 4"}, "strength in columns"),
        ({"rows": "start_percent", "row_values": "nan"}, "start_percent in rows"),
        ({"rows": "preset", "row_values": "portrait, loud"}, "rows has the preset 'loud'"),
        ({"rows": "level", "row_values": "rough"}, "There are coarse, medium, fine, all"),
        ({"rows": "direction", "row_values": "smile, zzzz"}, "zzzz"),
        ({"columns": "amount"}, "need a direction"),
        ({"columns": "amount", "column_values": "1 " * 101, "direction": "smile"}, "101 cells, more than 100"),
        ({"columns": "strength", "batch": 2}, "latent_image has 2 pictures"),
        ({"columns": "strength", "strength": 9.0}, "strength"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_first_cell(mini, grid, monkeypatch, options, message):
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("a cell was drawn"))
    with pytest.raises(mini.errors.PIDiffError, match=message):
        grid(**options)


def test_several_people_are_refused(mini, grid):
    with pytest.raises(mini.errors.PIDiffError, match="wplus has 2 people"):
        grid(wplus=mini.wplus, columns="strength")


def test_progress_goes_from_cell_to_cell_and_cancel_stops_it(mini, grid, monkeypatch):
    import comfy.model_management
    import comfy.utils

    # ComfyUI 0.30.0 shows progress at most every 0.1 s, and a cell takes less than that.
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)

    mini.pack.load("nodes.host.progress").register()  # as the pack does when ComfyUI loads it
    seen = []
    before = comfy.utils.PROGRESS_BAR_HOOK

    def watch(value, total, _preview, **_others):
        seen.append(value / total)
        if value / total > 0.5:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(watch)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            grid(columns="strength", column_values="0 0.5 1 1.5")
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.model_management.interrupt_current_processing(False)
    assert seen == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.625], abs=0.01)
