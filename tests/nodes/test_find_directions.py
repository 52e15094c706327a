"""PIDiffFindDirections in ComfyUI, with mini's generator, and Style Edit with the saved file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    import folder_paths

    pack.load("nodes.host.folders").register()
    yield pack.load("nodes")
    for path in comfy.base.rglob("*.directions.safetensors"):  # other tests list what is in models/pidiff
        path.unlink()
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def model(nodes):
    return nodes.LoadMini.execute().result[3]


def saved(report):
    import folder_paths

    name = report.splitlines()[0].removeprefix("saved as ")
    (path,) = [found for one in folder_paths.get_folder_paths("pidiff") for found in Path(one).rglob(name)]
    folder_paths.filename_list_cache.clear()
    return name, path


def edit(nodes, model, codes, direction):
    levels = {"coarse": True, "medium": True, "fine": True}
    return nodes.StyleEdit.execute(codes, model, direction=direction, amount=1.0, **levels).result[0]


@pytest.mark.slow
def test_measured_directions_of_mini_are_saved_shown_and_edit(nodes, model):
    strips, report = nodes.FindDirections.execute(model, "measured", "world", samples=200, seed=1).result
    assert strips.shape == (6, 64, 5 * 64, 3)
    names = [line.partition(":")[0] for line in report.splitlines()[1:]]
    assert names == ["yaw", "pitch", "smile", "face length", "skin lightness", "hair lightness"]
    name, path = saved(report)
    assert path.name == "world.directions.safetensors"
    middle = strips[names.index("skin lightness"), 32:48].unflatten(1, (5, 64))[:, :, 24:40].mean(dim=(0, 2, 3))
    assert middle[4] > middle[0] + 0.05, "the skin gets lighter along the strip"
    wplus = nodes.EncodeIdentity.execute(
        model, torch.rand(1, 64, 64, 3), detector="whole image", face_index=0, on_no_face="error"
    ).result[0]
    edited = edit(nodes, model, wplus, f"{name}:skin lightness")
    change = (edited.codes - wplus.codes)[0]
    torch.testing.assert_close(change, change[:1].expand(10, -1), atol=1e-5, rtol=0)
    assert change.abs().max() > 0.01


def test_two_groups_find_a_direction_that_mini_knows(nodes, model):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(24, 1, 128, generator=generator).expand(-1, 10, -1) * 0.3
    wplus_type = type(
        nodes.EncodeIdentity.execute(
            model, torch.rand(1, 64, 64, 3), detector="whole image", face_index=0, on_no_face="error"
        ).result[0]
    )
    lacking = wplus_type.from_offsets(base[:12], model.latent_avg, space=model.space)
    having = wplus_type.from_offsets(base[12:] + model.directions["beard"], model.latent_avg, space=model.space)
    strips, report = nodes.FindDirections.execute(model, "two groups", "own/beard", having, lacking).result
    assert strips.shape == (1, 64, 5 * 64, 3)
    assert report.splitlines()[1].startswith("beard: separation of left-out photos")
    name, path = saved(report)
    assert path.parent.name == "own"
    found = edit(nodes, model, lacking, f"own/{name}").codes - lacking.codes
    truth = model.directions["beard"].expand(10, -1)
    assert torch.nn.functional.cosine_similarity(found[0].flatten(), truth.flatten(), dim=0) > 0.5


def test_components_and_what_is_missing(nodes, model, pack):
    strips, _ = nodes.FindDirections.execute(model, "components", "parts", samples=64, count=2).result
    assert len(strips) == 2
    error = pack.load("pidiff_core.errors").PIDiffError
    with pytest.raises(error, match="connect having and lacking"):
        nodes.FindDirections.execute(model, "two groups", "x")
    with pytest.raises(error, match="method should be one of"):
        nodes.FindDirections.execute(model, "guess", "x")
    with pytest.raises(error, match="outside the folder"):
        nodes.FindDirections.execute(model, "components", "../../x")
    with pytest.raises(error, match="cannot be saved as"):
        nodes.FindDirections.execute(model, "components", " ")
    with pytest.raises(error, match="has no generator"):
        nodes.FindDirections.execute(dataclasses.replace(model, generator=None), "components", "x")
