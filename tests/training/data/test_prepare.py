"""`prepare`: what is in the shards, and that no photo is done twice, lost or dropped without a word."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

from pidiff_core.errors import PIDiffError
from pidiff_core.images import bhwc_to_bchw, load_image
from pidiff_core.pipeline import FaceOptions, encode, encode_photos
from pidiff_core.training.data.options import PrepareOptions
from pidiff_core.training.data.prepare import Ranks, prepare
from pidiff_core.training.data.shards import open_shard, read_index
from pidiff_core.training.folder_lock import LOCK_FILE, folder_lock
from tests.training.data.rendered_people import PoolingBase, draw_people


@pytest.fixture
def options(people_folder, tmp_path):
    return PrepareOptions(
        photos=str(people_folder), out=str(tmp_path / "out"), detector="model", people="subfolders",
        photos_per_shard=4, sheet_photos=0,
    )  # fmt: skip


@pytest.fixture
def own_folder(people_folder, tmp_path):
    """A copy of the photos that may be changed, with the same times."""
    return shutil.copytree(people_folder, tmp_path / "photos")


def contents(folder) -> dict[str, str]:
    """Every file of prepared data but the lock, by its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != LOCK_FILE
    }


@pytest.fixture(scope="module")
def undisturbed(people_folder, mini_model, tmp_path_factory) -> dict[str, str]:
    """The files of one run from beginning to end, with the options of `options`."""
    options = PrepareOptions(
        photos=str(people_folder), out=str(tmp_path_factory.mktemp("undisturbed")), detector="model",
        people="subfolders", photos_per_shard=4, sheet_photos=0,
    )  # fmt: skip
    prepare(options, base=PoolingBase(), model=mini_model)
    return contents(options.out)


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def test_what_a_shard_holds(options, base, mini_model, people_folder):
    summary = prepare(options, base=base, model=mini_model)
    assert (summary.photos, summary.people, summary.failures, summary.new_photos) == (15, 5, [], 15)
    assert summary.buckets == {(128, 128): 15}
    entry = read_index(Path(options.out))[5]
    path = people_folder / entry.photo.file
    assert entry.person == f"folder {path.parent.name}"
    image = bhwc_to_bchw(load_image(path))
    with open_shard(Path(options.out), entry.shard) as file:
        latents = file.get_tensor("128x128.latents")[entry.photo.crops[0].row].float()
        mask = file.get_tensor("128x128.masks")[entry.photo.crops[0].row].float()
        codes = file.get_tensor("codes")[entry.photo.code]
        text = file.get_tensor("text.context")[entry.photo.text]
        aligned = file.get_tensor("aligned.latents")[entry.photo.code].float()
        aligned_mask = file.get_tensor("aligned.masks")[entry.photo.code].float()
    torch.testing.assert_close(latents, base.encode_images(image)[0], atol=1e-3, rtol=0)
    reading = encode_photos(mini_model, load_image(path), FaceOptions(detectors=[mini_model.detector]))
    # The node's crop has 512 px, this one twice the encoder's size.
    assert relative_difference(codes, reading.wplus.offsets[0]) < 0.05
    small_mask = F.avg_pool2d(reading.masks_bhw[None], 8)[0]
    torch.testing.assert_close(mask, small_mask, atol=0.05, rtol=0)
    assert text[0, 0] == len(path.with_suffix(".txt").read_text())
    assert aligned[:3, 0, 0].min() > 0.99, "the background of the aligned face is white"
    assert aligned_mask[0, 8, 8] > 0.99
    assert aligned_mask[0, 0, 0] == 0.0


def test_the_same_command_again_does_nothing(options, base, mini_model):
    prepare(options, base=base, model=mini_model)
    before = contents(options.out)
    summary = prepare(options, base=base, model=mini_model)
    assert (summary.new_photos, summary.photos) == (0, 15)
    assert contents(options.out) == before


@pytest.mark.parametrize("stopped_after", [1, 4, 9])
def test_interrupted_and_run_again_it_writes_the_same_files(options, base, mini_model, undisturbed, stopped_after):
    def stop(done, _):
        if done == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(options, base=base, model=mini_model, progress=stop)
    (Path(options.out) / "shards").mkdir(exist_ok=True)
    (Path(options.out) / "shards" / ".0000-00009.safetensors.tmp").write_bytes(b"half of a shard")
    seen = []
    prepare(options, base=base, model=mini_model, progress=lambda done, count: seen.append(count))
    assert len(seen) == 15 - (stopped_after - 1) // 4 * 4, "only unfinished shards are done again"
    assert contents(options.out) == undisturbed


RUN = """
import sys
from pathlib import Path
root, photos, out = sys.argv[1:4]
sys.path[:0] = [root]
import torch
torch.set_num_threads(1)
from tests.training.data.rendered_people import PoolingBase
from pidiff_core.errors import PIDiffError
from pidiff_core.mini.bundle import load_identity
from pidiff_core.training.data.options import PrepareOptions
from pidiff_core.training.data.prepare import prepare
options = PrepareOptions(photos=photos, out=out, detector="model", people="subfolders", photos_per_shard=4)
if len(sys.argv) > 4:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    prepare(options, base=PoolingBase(), model=load_identity(), progress=lambda done, count: print(done, flush=True))
except PIDiffError as error:
    print(error)
    sys.exit(3)
"""


def run(root, photos, out, *limit) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, root, photos, out, *map(str, limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_ten_times_it_writes_the_files_of_an_undisturbed_run(root, tmp_path):
    draw_people(tmp_path / "photos", people=40, each=3)
    whole = run(root, tmp_path / "photos", tmp_path / "whole")
    assert whole.communicate()[0].splitlines()[-1] == "120"
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        process = run(root, tmp_path / "photos", tmp_path / "out")
        photos = int(torch.randint(1, 14, (), generator=generator))
        for _ in range(photos):
            process.stdout.readline()
        process.kill()
        process.wait()
    shards = len(list((tmp_path / "out" / "shards").glob("0*")))
    assert 5 <= shards < 30, "it was killed in the middle of its work"
    done = run(root, tmp_path / "photos", tmp_path / "out").communicate()[0].splitlines()
    assert len(done) == 120 - 4 * shards
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_run_goes_on_later(options, base, mini_model, undisturbed, root, people_folder):
    """A limit on the size of files stands for the disk: the system refuses the write in the middle of a shard."""
    process = run(root, people_folder, options.out, 20_000)
    output = process.communicate()[0]
    assert process.returncode == 3
    assert "Cannot write" in output
    assert "free space" in output
    assert not [path for path in Path(options.out).rglob("*") if path.suffix == ".tmp" or path.name == "index.jsonl"]
    prepare(options, base=base, model=mini_model)
    assert contents(options.out) == undisturbed


def test_photos_added_later_are_the_only_ones_done(options, base, mini_model, own_folder):
    options = replace(options, photos=str(own_folder))
    prepare(options, base=base, model=mini_model)
    before = contents(options.out)
    shutil.copy(own_folder / "person_000/0000.png", own_folder / "person_000/extra.png")
    (own_folder / "person_001/0003.txt").write_text("a new caption")
    (own_folder / "person_002/0006.png").unlink()
    seen = []
    summary = prepare(options, base=base, model=mini_model, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 2), (2, 2)]
    assert (summary.photos, summary.new_photos) == (15, 2)
    after = contents(options.out)
    assert {name: after[name] for name in before if name.startswith(("shards", "plans"))}.items() <= before.items()
    entries = {entry.photo.file: entry for entry in read_index(Path(options.out))}
    assert "person_002/0006.png" not in entries
    assert entries["person_000/extra.png"].shard == "0001-00000"
    with open_shard(Path(options.out), "0001-00000") as file:
        row = entries["person_001/0003.png"].photo.text
        assert file.get_tensor("text.context")[row, 0, 0] == len("a new caption")


def test_other_people_need_no_new_preparation(options, base, mini_model):
    prepare(options, base=base, model=mini_model)
    summary = prepare(replace(options, people="photos"), base=base, model=mini_model)
    assert (summary.new_photos, summary.people) == (0, 15)


def test_what_could_not_be_used_is_listed_with_the_reason(options, base, mini_model, own_folder):
    Image.new("RGB", (128, 128), "navy").save(own_folder / "plain.png")
    Image.open(own_folder / "person_000/0000.png").resize((40, 40)).save(own_folder / "small.png")
    (own_folder / "empty.jpg").touch()
    (own_folder / "text.png").write_text("<html>not a picture</html>")
    whole = (own_folder / "person_000/0000.png").read_bytes()
    (own_folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    summary = prepare(replace(options, photos=str(own_folder)), base=base, model=mini_model)
    assert summary.photos == 15
    with (Path(options.out) / "failures.csv").open(newline="") as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"plain.png", "small.png", "empty.jpg", "text.png", "cut.png"}
    assert "No face was found" in reasons["plain.png"]
    assert "40x40 px" in reasons["small.png"]
    assert "empty" in reasons["empty.jpg"]
    assert "5 photos could not be used, listed in failures.csv" in summary.text()


def test_a_folder_without_faces(options, base, mini_model, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (128, 128), "navy").save(tmp_path / "photos" / "plain.png")
    with pytest.raises(PIDiffError, match=r"None of the 1 photos.*failures\.csv.*plain\.png: No face was found"):
        prepare(replace(options, photos=str(tmp_path / "photos")), base=base, model=mini_model)


def test_small_faces_are_left_out(options, base, mini_model):
    with pytest.raises(PIDiffError, match=r"covers \d+ px of the photo, fewer than 400"):
        prepare(replace(options, min_face_px=400), base=base, model=mini_model)


def test_other_settings_need_another_folder(options, base, mini_model):
    prepare(options, base=base, model=mini_model)
    before = contents(options.out)
    with pytest.raises(PIDiffError, match=r"other settings \(crops was 1, now 2\)"):
        prepare(replace(options, crops=2), base=base, model=mini_model)
    with pytest.raises(PIDiffError, match="fingerprint was pooling, now another"):
        prepare(options, base=PoolingBase("another"), model=mini_model)
    assert contents(options.out) == before


def test_two_runs_in_one_folder(options, base, mini_model):
    with folder_lock(options.out, what="prepare"), pytest.raises(PIDiffError, match="Another run works in"):
        prepare(options, base=base, model=mini_model)
    assert contents(options.out) == {}


def test_two_ranks_write_what_one_writes(options, base, mini_model, undisturbed):
    barrier = threading.Barrier(2)
    done: dict[int, int] = {}

    def work(rank):
        ranks = Ranks(rank, 2, wait=lambda: barrier.wait(60) and None)
        prepare(options, base=base, model=mini_model, ranks=ranks, progress=lambda n, _: done.update({rank: n}))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == {0: 8, 1: 7}
    assert contents(options.out) == undisturbed


def test_further_crops_and_mirrored_faces(options, base, mini_model, people_folder):
    summary = prepare(replace(options, crops=3, mirrored=True), base=base, model=mini_model)
    assert summary.buckets == {(128, 128): 45}
    entry = read_index(Path(options.out))[0]
    assert len({(crop.resized_px, crop.top, crop.left) for crop in entry.photo.crops}) == 3
    with open_shard(Path(options.out), entry.shard) as file:
        assert file.get_tensor("128x128.latents").shape == (12, 4, 16, 16)
        mirrored = file.get_tensor("mirrored")
    photo = load_image(people_folder / entry.photo.file)
    crops = encode_photos(mini_model, photo, FaceOptions(detectors=[mini_model.detector])).crops_bhwc
    expected = encode(mini_model, bhwc_to_bchw(crops.flip(2))).offsets
    assert relative_difference(mirrored[entry.photo.code], expected[0]) < 0.05


def test_the_contact_sheet_and_the_failures_on_it(options, base, mini_model, own_folder):
    Image.new("RGB", (128, 128), "navy").save(own_folder / "plain.png")
    prepare(replace(options, photos=str(own_folder), sheet_photos=8), base=base, model=mini_model)
    sheet = Image.open(Path(options.out) / "sheet.jpg")
    assert sheet.width == 4 * 296
    assert sheet.height > 24 + 2 * 178
    tinted = sheet.crop((60, 60, 90, 100)).resize((1, 1)).getpixel((0, 0))
    assert tinted[1] > tinted[0], "the head is marked green"


def test_metadata_is_readable_by_others(options, base, mini_model):
    prepare(options, base=base, model=mini_model)
    with safe_open(Path(options.out) / "settings.safetensors", framework="pt") as file:
        assert {"latent_avg", "text.context"} == set(file.keys())


@pytest.mark.slow
def test_a_turned_face_is_found_if_it_is_asked_for(options, base, mini_model, tmp_path, photo):
    """A real photo, upright and on its side: the quick search finds the first, the thorough one both."""
    (tmp_path / "photos").mkdir()
    Image.open(photo).save(tmp_path / "photos/upright.png")
    Image.open(photo).rotate(90, expand=True).save(tmp_path / "photos/on_its_side.png")
    options = replace(options, photos=str(tmp_path / "photos"), detector="mtcnn")
    quick = prepare(options, base=base, model=mini_model)
    assert [one.file for one in quick.failures] == ["on_its_side.png"]
    assert "No face was found" in quick.failures[0].reason
    thorough = prepare(replace(options, out=str(tmp_path / "all"), upright=False), base=base, model=mini_model)
    assert (thorough.photos, thorough.failures) == (2, [])
