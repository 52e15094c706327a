"""The nodes around codes, run as ComfyUI runs them: schemas, a photo's way through them, files, errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ENCODER = {
    "image_size": 32, "num_styles": 8, "width": 6, "stem_channels": 4, "units": (1, 1, 1, 1), "depths": (4, 4, 6, 6),
    "head_channels": 4, "heads": (2, 2, 4), "se_reduction": 2,
}  # fmt: skip
GENERATOR = {"size": 32, "width": 6, "z_dim": 6, "mapping_layers": 1, "channels": (4, 4, 4, 4)}
FIVE = "60,50 84,50 72,65 63,78 81,78"

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    return SimpleNamespace(
        encode=pack.load("nodes.encode").EncodeIdentity,
        preview=pack.load("nodes.preview").PreviewCodes,
        edit=pack.load("nodes.edit").StyleEdit,
        save=pack.load("nodes.codes").SaveCodes,
        load=pack.load("nodes.codes").LoadCodes,
        list=pack.load("nodes.codes").ListCodes,
        mean=pack.load("nodes.combine").MeanCodes,
        walk=pack.load("nodes.combine").WalkCodes,
        folders=pack.load("nodes.host.folders"),
        error=pack.load("pidiff_core.errors").PIDiffError,
    )


@pytest.fixture(scope="module")
def model(pack):
    torch.manual_seed(0)
    config, networks = pack.load("pidiff_core.e4e.config"), pack.load("pidiff_core.e4e.encoder")
    generators, sizes = pack.load("pidiff_core.stylegan2.generator"), pack.load("pidiff_core.stylegan2.config")
    return pack.load("pidiff_core.model").PIDiffModel(
        pack.load("pidiff_core.wplus.codes").WPlusSpace("test", 8, 6),
        torch.randn(8, 6),
        encoder=networks.E4eEncoder(config.EncoderConfig(**ENCODER)),
        generator=generators.Generator(sizes.GeneratorConfig(**GENERATOR)),
        directions={"older": torch.ones(1, 6)},
        crop_size=32,
        source="tiny",
    )


@pytest.fixture(scope="module")
def photo_bhwc():
    return torch.rand(1, 120, 160, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wplus(nodes, model, photo_bhwc):
    return nodes.encode.execute(model, photo_bhwc, "auto", 0, "error", landmarks=FIVE).result[0]


@pytest.mark.parametrize(
    ("name", "node_id"),
    [
        ("encode", "EncodeIdentityW+"),
        ("edit", "StyleEdit"),
        ("preview", "PIDiffPreviewCodes"),
        ("save", "PIDiffSaveCodes"),
        ("load", "PIDiffLoadCodes"),
        ("list", "PIDiffListCodes"),
        ("mean", "PIDiffMeanCodes"),
        ("walk", "PIDiffWalkCodes"),
    ],
)
def test_schemas_are_accepted_and_explain_every_input(nodes, name, node_id):
    node = getattr(nodes, name)
    schema = node.GET_SCHEMA()
    assert schema.node_id == node_id
    assert schema.category == "PIDiff"
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    assert set(node.INPUT_TYPES()["required"]) <= {entry.id for entry in schema.inputs}


def test_a_photo_becomes_codes_a_crop_and_a_mask_of_its_own_size(nodes, model, photo_bhwc):
    with torch.inference_mode():
        wplus, aligned, mask = nodes.encode.execute(model, photo_bhwc, "auto", 0, "error", landmarks=FIVE).result
    assert wplus.codes.shape == (1, 8, 6)
    assert aligned.shape == (1, 512, 512, 3)
    assert mask.shape == (1, 120, 160)
    assert mask[0, 60, 72] == 1.0


def test_whole_image_needs_no_detector(nodes, model, photo_bhwc):
    result = nodes.encode.execute(model, photo_bhwc, "whole image", 0, "error").result
    assert result[0].origin["photos"][0]["found_by"] == "whole image"


def test_a_chosen_detector_that_is_missing_says_where_to_get_it(nodes, model, photo_bhwc):
    with pytest.raises(nodes.error, match=r"yunet_final\.pth"):
        nodes.encode.execute(model, photo_bhwc, "yunet", 0, "error")


def test_a_photo_that_is_none_is_an_error(nodes, model):
    with pytest.raises(nodes.error, match="1x1 pixels"):
        nodes.encode.execute(model, torch.zeros(1, 1, 1, 3), "mtcnn", 0, "error")


def test_codes_are_shown_as_a_portrait(nodes, model, wplus):
    assert nodes.preview.execute(model, wplus).result[0].shape == (1, 32, 32, 3)


@pytest.mark.parametrize(("switches", "moved"), [((True, False, False), [0, 1]), ((False, False, True), [4, 5, 6, 7])])
def test_style_edit_moves_the_chosen_levels(nodes, model, wplus, switches, moved):
    (edited,) = nodes.edit.execute(wplus, model, "older", 0.5, *switches).result
    change = (edited.codes - wplus.codes)[0, :, 0]
    assert [style for style in range(8) if abs(change[style]) > 1e-6] == moved


def test_style_edit_takes_levels_of_somebody_else(nodes, model, wplus):
    other = wplus.with_codes(wplus.codes + 5.0)
    (mixed,) = nodes.edit.execute(wplus, model, "", 1.0, True, False, False, other=other).result
    assert torch.equal(mixed.codes[:, :2], other.codes[:, :2])
    assert torch.equal(mixed.codes[:, 2:], wplus.codes[:, 2:])


def test_style_edit_lists_the_directions_there_are(nodes, model, wplus):
    with pytest.raises(nodes.error, match=r"no direction 'younger'.*older"):
        nodes.edit.execute(wplus, model, "younger", 1.0, True, True, True)


def test_codes_are_saved_and_loaded(nodes, model, wplus):
    saved = nodes.save.execute(wplus, "people/anna").ui["pidiff_codes"][0]
    name = f"{saved['subfolder']}/{saved['filename']} [output]"
    assert name in nodes.folders.list_input_files((".safetensors",))
    assert nodes.load.validate_inputs(name) is True
    first = nodes.load.fingerprint_inputs(name, kind="absolute")
    loaded = nodes.load.execute(name, pidiff_model=model).result[0]
    assert torch.equal(loaded.codes, wplus.codes)
    assert first == nodes.load.fingerprint_inputs(name, kind="absolute")
    assert nodes.save.execute(wplus, "people/anna").ui["pidiff_codes"][0]["filename"] != saved["filename"]


def test_a_saved_file_says_where_the_person_came_from(nodes, model, wplus, photo_bhwc):
    """Space, encoder, the photo's hash and the crop survive the way through the file, also that of a mean."""
    mean, _ = nodes.mean.execute(wplus, more=wplus).result
    for person, photos in ((wplus, 1), (mean, 2)):
        saved = nodes.save.execute(person, "record/person").ui["pidiff_codes"][0]
        loaded = nodes.load.execute(f"{saved['subfolder']}/{saved['filename']} [output]").result[0]
        assert loaded.space == model.space
        assert loaded.origin["encoder"] == "tiny"
        assert len(loaded.origin["photos"]) == photos
        for record in loaded.origin["photos"]:
            assert len(record["picture_sha256"]) == 64
            assert record["picture_size"] == [160, 120]
            assert record["found_by"] == "landmarks"
            assert torch.tensor(record["crop_to_picture"]).shape == (3, 3)
    other = nodes.encode.execute(model, photo_bhwc + 0.1, "auto", 0, "error", landmarks=FIVE).result[0]
    assert other.origin["photos"][0]["picture_sha256"] != wplus.origin["photos"][0]["picture_sha256"]


def test_saved_people_are_listed(nodes, model, wplus, comfy):
    before = nodes.list.fingerprint_inputs("listed")
    assert nodes.list.execute("listed").result == ("No saved people were found.", "")
    nodes.save.execute(wplus, "listed/anna")
    nodes.save.execute(wplus.with_codes(torch.cat([wplus.codes] * 3)), "listed/deeper/bert")
    (comfy.base / "output" / "listed" / "latent.safetensors").write_bytes(b"not codes")
    (comfy.base / "output" / "listed" / "link.safetensors").symlink_to(__file__)
    shown = nodes.list.execute("listed", pidiff_model=model)
    text, names = shown.result
    assert names.splitlines() == [
        "listed/anna_00001_.safetensors [output]",
        "listed/deeper/bert_00001_.safetensors [output]",
    ]
    assert shown.ui.as_dict() == {"text": (text,)}
    assert wplus.origin["photos"][0]["picture_sha256"][:12] in text
    assert "3 people" in text
    assert nodes.load.execute(names.splitlines()[0]).result[0].source in text
    assert nodes.list.execute("*/bert*").result[1].splitlines() == names.splitlines()[1:]
    assert set(names.splitlines()) <= set(nodes.list.execute("").result[1].splitlines())
    assert nodes.list.fingerprint_inputs("listed") != before
    stranger = dataclasses.replace(model, space=dataclasses.replace(model.space, name="other"))
    assert nodes.list.execute("listed", pidiff_model=stranger).result[1] == ""


def test_other_tools_codes_need_the_model(nodes, model, comfy):
    folder = comfy.base / "input"
    folder.mkdir(exist_ok=True)
    torch.save(torch.ones(1, 8, 6), folder / "foreign.pt")
    offset = nodes.load.execute("foreign.pt", kind="offset", pidiff_model=model).result[0]
    torch.testing.assert_close(offset.codes[0], model.latent_avg + 1)
    with pytest.raises(nodes.error, match="Connect the PIDiff model"):
        nodes.load.execute("foreign.pt")


def test_files_outside_of_the_folders_are_refused(nodes, comfy, tmp_path):
    (comfy.base / "input").mkdir(exist_ok=True)
    (tmp_path / "secret.pt").write_bytes(b"secret")
    link = comfy.base / "input" / "link.pt"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret.pt")
    for name in ("link.pt", "../secret.pt", str(tmp_path / "secret.pt")):
        assert "is outside the folder" in nodes.load.validate_inputs(name)
    assert "was not found in" in nodes.load.validate_inputs("missing.pt")


def test_several_photos_have_a_mean_and_a_report(nodes, model, wplus):
    batch = wplus.with_codes(torch.cat([wplus.codes, wplus.codes, wplus.codes, wplus.codes + 9]))
    mean, report = nodes.mean.execute(batch, drop_outliers=True).result
    torch.testing.assert_close(mean.codes, wplus.codes)
    assert report.splitlines()[3].endswith("unlike the others")
    weighted, _ = nodes.mean.execute(wplus, more=wplus.with_codes(wplus.codes + 4), weights="1, 3").result
    torch.testing.assert_close(weighted.codes, wplus.codes + 3)
    with pytest.raises(nodes.error, match="not numbers"):
        nodes.mean.execute(wplus, weights="much")


@pytest.mark.parametrize(
    ("weights", "count", "mean"),
    [
        ("0,5 1,5", 2, 0.75),
        ("0.5; 1.5", 2, 0.75),
        ("1, 3", 2, 0.75),
        ("1,0,1", 3, 1.0),
        ("1\N{FULLWIDTH COMMA}0.5\N{FULLWIDTH COMMA}1", 3, 1.0),
        ("\N{FULLWIDTH DIGIT ONE} \N{FULLWIDTH DIGIT TWO}", 2, 2 / 3),
        ("", 3, 1.0),
        ("0,5 1,5", 4, "2 weights were given for 4 codes"),
        ("1,5,2 3", 2, "not numbers"),
        ("nan 1", 2, "should be zero or more"),
        ("inf 1", 2, "should be zero or more"),
        ("half \ud83d", 2, r"'half \\ud83d' are not numbers"),
    ],
)
def test_weights_are_read_as_people_write_them(nodes, wplus, weights, count, mean):
    codes = torch.arange(count, dtype=torch.float32)[:, None, None].expand(count, 8, 6)
    batch = wplus.with_codes(codes.clone())
    if isinstance(mean, str):
        with pytest.raises(nodes.error, match=mean):
            nodes.mean.execute(batch, weights=weights)
    else:
        found = nodes.mean.execute(batch, weights=weights).result[0].codes
        torch.testing.assert_close(found, torch.full((1, 8, 6), mean))


def test_a_walk_is_a_batch(nodes, wplus):
    (walk,) = nodes.walk.execute(wplus, wplus.with_codes(wplus.codes + 2), 3).result
    torch.testing.assert_close(walk.codes[1], wplus.codes[0] + 1)


def test_the_model_folder_is_registered_with_its_suffixes(nodes):
    nodes.folders.register()
    nodes.folders.register()
    folders = nodes.folders.pidiff_folders()
    assert len(folders) == len(set(folders)) == 1
    (Path(folders[0]) / "smile.npy").touch()
    assert nodes.folders.list_pidiff_files([".npy"]) == ["smile.npy"]
    assert nodes.folders.find_pidiff_file("smile.npy") == str(Path(folders[0]) / "smile.npy")
    assert nodes.folders.find_pidiff_file("smile.pt") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, -21.0, None])
def test_numbers_that_no_widget_gives_are_sentences(nodes, model, wplus, value):
    with pytest.raises(nodes.error, match="amount should be a number from -20 to 20"):
        nodes.edit.execute(wplus, model, "older", value, True, True, True)
    with pytest.raises(nodes.error, match="mix should be a number from 0 to 1"):
        nodes.edit.execute(wplus, model, "", 1.0, True, True, True, other=wplus, mix=value)
    with pytest.raises(nodes.error, match="steps should be a whole number from 2 to 64"):
        nodes.walk.execute(wplus, wplus, value)
