"""Batches of prepared data: a function of the step alone, the same for every number of processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pidiff_core.errors import PIDiffError
from pidiff_core.training.data.options import PrepareOptions
from pidiff_core.training.data.prepare import prepare
from pidiff_core.training.data.prepared import PreparedData, TrainingBatch
from pidiff_core.training.data.shards import open_shard, read_index
from tests.training.data.rendered_people import PoolingBase


@pytest.fixture(scope="module")
def folder(people_folder, mini_model, tmp_path_factory):
    """Five people with three photos each, one of them wide."""
    photos = shutil.copytree(people_folder, tmp_path_factory.mktemp("wide") / "photos")
    wide = Image.open(photos / "person_004/0014.png")
    canvas = Image.new("RGB", (256, 128), "grey")
    canvas.paste(wide, (64, 0))
    canvas.save(photos / "person_004/0014.png")
    options = PrepareOptions(
        photos=str(photos), out=str(photos.parent / "out"), detector="model", people="subfolders",
        photos_per_shard=4, sheet_photos=0, mirrored=True, resolution=192, min_photo_px=64,
    )  # fmt: skip
    prepare(options, base=PoolingBase(pooled=True), model=mini_model)
    return Path(options.out)


@pytest.fixture
def data(folder):
    return PreparedData.open(folder, base=PoolingBase(pooled=True))


def codes_by_file(folder, key="codes") -> dict[str, torch.Tensor]:
    found = {}
    for entry in read_index(folder):
        with open_shard(folder, entry.shard) as file:
            found[entry.photo.file] = file.get_tensor(key)[entry.photo.code]
    return found


def same(first: TrainingBatch, second: TrainingBatch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(vars(first).values(), vars(second).values())
    )


def test_sizes(data):
    assert (len(data), data.num_people, data.buckets) == (15, 5, {(192, 192): 14, (128, 256): 1})
    batch = data.batch(0, 4, seed=0, kind="aligned")
    assert batch.latents.shape == (4, 4, 24, 24)
    assert batch.codes.shape == batch.other_codes.shape == (4, 10, 128)
    assert batch.face_mask.shape == (4, 1, 24, 24)
    assert batch.size_conditions.tolist() == [[192, 192, 0, 0, 192, 192]] * 4
    assert data.space.name == "mini-64"
    assert data.code_std.shape == (10, 128)
    torch.testing.assert_close(data.code_std, torch.stack([*codes_by_file(data.folder).values()]).std(dim=0))


def test_one_bucket_a_batch_and_every_photo_in_an_epoch(data):
    steps = data.steps_per_epoch(4)
    seen: list[str] = []
    for step in range(steps):
        batch = data.batch(step, 4, seed=3)
        wide = [file == "person_004/0014.png" for file in batch.files]
        assert all(wide) or not any(wide)
        assert batch.latents.shape[-2:] == ((16, 32) if all(wide) else (24, 24))
        seen += batch.files
    assert steps == 5
    assert len(set(seen)) == 15


def test_codes_come_from_another_photo_of_the_same_person(data, folder):
    codes = codes_by_file(folder)
    file_of = {tuple(code.flatten()[:8].tolist()): file for file, code in codes.items()}
    for step in range(6):
        batch = data.batch(step, 4, seed=0)
        for file, own, other in zip(batch.files, batch.codes, batch.other_codes):
            reference, stranger = (file_of[tuple(code.flatten()[:8].tolist())] for code in (own, other))
            assert reference != file
            assert reference.split("/")[0] == file.split("/")[0]
            assert stranger.split("/")[0] != file.split("/")[0]


def test_averaged_and_mirrored_codes(data, folder):
    codes, mirrored = codes_by_file(folder), codes_by_file(folder, "mirrored")
    batch = data.batch(0, 4, seed=0, averaged=1.0)
    for file, code in zip(batch.files, batch.codes):
        others = [other for other in codes if other != file and other.split("/")[0] == file.split("/")[0]]
        torch.testing.assert_close(code, torch.stack([codes[other] for other in others]).mean(dim=0))
    batch = data.batch(0, 4, seed=0, mirrored=1.0)
    for file, code in zip(batch.files, batch.codes):
        assert any(torch.equal(code, mirrored[other]) for other in mirrored if other != file)


def test_a_batch_depends_on_its_arguments_alone(data, folder):
    other = PreparedData.open(folder)
    other.batch(7, 4, seed=9)
    assert same(data.batch(13, 4, seed=0), other.batch(13, 4, seed=0))
    assert not same(data.batch(13, 4, seed=0), data.batch(13, 4, seed=1))
    assert not same(data.batch(0, 4, seed=0), data.batch(5, 4, seed=0)), "each epoch has its own order"


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["wild", "aligned"])
def test_ranks_share_the_rows_of_one_batch(data, world, kind):
    whole = data.batch(3, 4, seed=0, kind=kind)
    parts = [data.batch(3, 4, seed=0, kind=kind, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert torch.equal(torch.cat([part.codes for part in parts]), whole.codes)
    assert [file for part in parts for file in part.files] == whole.files
    with pytest.raises(PIDiffError, match="batch of 4 cannot be split into 3"):
        data.batch(0, 4, seed=0, world=3)


def test_size_conditions_of_a_crop(data):
    for step in range(data.steps_per_epoch(1)):
        batch = data.batch(step, 1, seed=0)
        expected = [128, 256, 0, 0, 128, 256] if batch.files == ["person_004/0014.png"] else [128, 128, 0, 0, 192, 192]
        assert batch.size_conditions[0].tolist() == expected
        assert batch.pooled.shape == (1, 5)


def test_held_out_photos_are_always_the_same(data, folder):
    train, held = data.split(held_out=4)
    again = PreparedData.open(folder).split(held_out=4)[1]
    files = {file for step in range(8) for file in held.batch(step, 2, seed=0).files}
    assert files == {file for step in range(8) for file in again.batch(step, 2, seed=1).files}
    assert len(files) == len(held) == 4
    trained = {file for step in range(12) for file in train.batch(step, 4, seed=0).files}
    assert not trained & files
    with pytest.raises(PIDiffError, match="15 photos cannot be held out of 15"):
        data.split(held_out=15)


def test_repeats_of_a_data_set(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = (copy / "index.jsonl").read_text().splitlines(keepends=True)
    (copy / "index.jsonl").write_text("".join([index[0].replace('"repeats": 1', '"repeats": 10'), *index[1:14]]))
    data = PreparedData.open(copy)
    files = [file for step in range(data.steps_per_epoch(4)) for file in data.batch(step, 4, seed=0).files]
    assert files.count("person_000/0000.png") in range(9, 11)


def test_one_person_alone(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = (copy / "index.jsonl").read_text().splitlines(keepends=True)
    (copy / "index.jsonl").write_text("".join(index[:3]))
    batch = PreparedData.open(copy).batch(0, 2, seed=0)
    assert not batch.other_codes.any()
    (copy / "index.jsonl").write_text(index[0])
    batch = PreparedData.open(copy).batch(0, 2, seed=0)
    assert batch.files == ["person_000/0000.png"] * 2
    assert torch.equal(PreparedData.open(copy).code_std, torch.ones(10, 128))


def test_what_is_no_prepared_data(folder, tmp_path):
    with pytest.raises(PIDiffError, match="holds no prepared photos"):
        PreparedData.open(tmp_path)
    with pytest.raises(PIDiffError, match="prepared with another base model"):
        PreparedData.open(folder, base=PoolingBase("another"))
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "index.jsonl").unlink()
    with pytest.raises(PIDiffError, match="not all prepared"):
        PreparedData.open(copy)
    copy = shutil.copytree(folder, tmp_path / "cut")
    shard = copy / "shards" / "0000-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(PIDiffError, match=r"0000-00000\.safetensors cannot be read"):
        [PreparedData.open(copy).batch(step, 4, seed=0) for step in range(5)]
