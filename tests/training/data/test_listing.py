"""Photos, captions and people as users have them on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pidiff_core.errors import PIDiffError
from pidiff_core.training.data.listing import list_photos
from pidiff_core.training.data.options import PrepareOptions


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def listed(folder, **options):
    return {photo.name: photo for photo in list_photos(PrepareOptions(photos=str(folder), **options)).photos}


def test_nested_folders_and_every_format_of_pillow(tmp_path):
    names = ["a.png", "B.JPG", "deep/er/c.webp", "d.tiff", "e.bmp", "f.jpeg", "g.avif", "ümlaut 1.png"]
    for name in names:
        picture(tmp_path / name)
    picture(tmp_path / ".hidden" / "x.png")
    picture(tmp_path / "._a.png")
    (tmp_path / "movie.mp4").touch()
    found = list_photos(PrepareOptions(photos=str(tmp_path)))
    assert [photo.name for photo in found.photos] == sorted(names)
    assert found.notes == ["1 files are not pictures and are skipped."]


def test_captions_from_files_and_from_the_template(tmp_path):
    picture(tmp_path / "anna_lee" / "1.png").with_suffix(".txt").write_text("\ufeffanna on\n a beach\n", "utf-8")
    picture(tmp_path / "anna_lee" / "2.png").with_name("2.png.txt").write_text("with the whole name")
    picture(tmp_path / "anna_lee" / "3.png").with_suffix(".txt").write_text("Łódź 東京", "utf-16")
    picture(tmp_path / "anna_lee" / "my_4.png")
    captions = {name: photo.caption for name, photo in listed(tmp_path, caption="{folder}, {name}").items()}
    assert list(captions.values()) == ["anna on a beach", "with the whole name", "Łódź 東京", "anna lee, my 4"]


def test_a_caption_in_another_encoding_names_the_remedy(tmp_path):
    picture(tmp_path / "a.png").with_suffix(".txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(PIDiffError, match=r"a\.txt is not in utf-8-sig \(byte 0xe9 at 3\).*caption_encoding cp1252"):
        listed(tmp_path)
    assert listed(tmp_path, caption_encoding="cp1252")["a.png"].caption == "café"
    with pytest.raises(PIDiffError, match="encoding 'klingon'"):
        listed(tmp_path, caption_encoding="klingon")


def test_a_template_with_an_unknown_field(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(PIDiffError, match=r"'a \{person\}' cannot be filled.*\{folder\} and \{name\}"):
        listed(tmp_path, caption="a {person}")


@pytest.mark.parametrize("choice", ["photos", "subfolders"])
def test_people(tmp_path, choice):
    for name in ("anna/1.png", "anna/2.png", "ben/1.png", "alone.png"):
        picture(tmp_path / name)
    people = [photo.person for photo in listed(tmp_path, people=choice).values()]
    expected = {"photos": 4, "subfolders": 3}[choice]
    assert len(set(people)) == expected
    assert (people[1] == people[2]) == (choice == "subfolders")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_people_from_a_table(tmp_path, separator):
    for name in ("1.png", "x/2.png", "3.png", "4.png"):
        picture(tmp_path / name)
    table = tmp_path / "people.csv"
    rows = [("file", "person"), ("1.png", "Anna Lee"), ("x\\2.png", "Anna Lee"), ("3.png", "Ben"), ("gone.png", "Ben")]
    table.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), "utf-8")
    found = list_photos(PrepareOptions(photos=str(tmp_path), people=str(table)))
    assert [photo.person for photo in found.photos] == [
        "person Anna Lee",
        "person Ben",
        "photo 4.png",
        "person Anna Lee",
    ]
    assert "lists 1 files that are not in" in found.notes[-1]
    assert "gone.png" in found.notes[-1]


def test_wrong_tables_of_people(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(PIDiffError, match="'photos', 'subfolders' or a CSV"):
        listed(tmp_path, people="folders")
    (tmp_path / "people.csv").write_text("1.png\n")
    with pytest.raises(PIDiffError, match=r"Line 1 of .*people\.csv should be 'file,person'"):
        listed(tmp_path, people=str(tmp_path / "people.csv"))


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(PIDiffError, match=r"The folder of photos.*--prepare\.photos"):
        listed(tmp_path / "missing")
    (tmp_path / "notes.md").touch()
    with pytest.raises(PIDiffError, match=r"no photos in .* \(1 other files\)"):
        listed(tmp_path)


def test_a_data_set_of_sd_scripts(tmp_path):
    picture(tmp_path / "10_anna" / "1.png")
    picture(tmp_path / "more" / "2.png").with_suffix(".caption").write_text("from a file")
    (tmp_path / "set.toml").write_text(
        """
        [general]
        caption_extension = ".caption"
        shuffle_caption = true
        [[datasets]]
        resolution = 512
          [[datasets.subsets]]
          image_dir = "10_anna"
          class_tokens = "photo of anna"
          num_repeats = 10
          [[datasets.subsets]]
          image_dir = "more"
        """
    )
    photos = listed(tmp_path / "set.toml")
    assert {name: (photo.caption, photo.repeats) for name, photo in photos.items()} == {
        "10_anna/1.png": ("photo of anna", 10),
        "more/2.png": ("from a file", 1),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets = 3", r"'datasets' in .* should be a list of tables"),
        ("[[datasets]]", r"no \[\[datasets\.subsets\]\]"),
        ("[[datasets]]\n[[datasets.subsets]]\nmetadata_file = 'x.json'", "has no image_dir"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'gone'", "gone, listed in .*, is not a folder"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 0", "num_repeats of a"),
        ("nonsense", "is not a TOML file"),
    ],
)
def test_wrong_data_sets(tmp_path, text, message):
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(PIDiffError, match=message):
        listed(tmp_path / "set.toml")


def test_options_out_of_range():
    with pytest.raises(PIDiffError, match=r"prepare\.crops is 0; it should be at least 1"):
        PrepareOptions(crops=0)
