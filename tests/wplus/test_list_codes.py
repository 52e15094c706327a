"""What files of codes say of themselves."""

from __future__ import annotations

import os
from datetime import datetime

import pytest
import torch

from pidiff_core.files.container import write_container
from pidiff_core.wplus.code_files import save_codes
from pidiff_core.wplus.codes import WPlus, WPlusSpace
from pidiff_core.wplus.list_codes import describe_codes, listing

SPACE = WPlusSpace("mini-64", 10, 8)


def save(path, *, count=1, **origin):
    save_codes(
        path, WPlus(torch.ones(count, 10, 8), torch.zeros(10, 8), SPACE, "1 photo (face found by mtcnn)", origin)
    )
    return path


def test_a_file_names_its_space_its_people_and_their_photos(tmp_path):
    photos = [{"picture_sha256": letter * 64, "crop_size": 512} for letter in "abcdef"]
    path = save(tmp_path / "anna.safetensors", count=6, encoder="e4e_ffhq_encode.pt", photos=photos)
    os.utime(path, (0, datetime(2026, 11, 23, 14, 5).timestamp()))
    found = describe_codes(path, name="people/anna.safetensors [output]")
    assert (found.space, found.people, found.encoder) == (SPACE, 6, "e4e_ffhq_encode.pt")
    assert found.pictures == tuple(letter * 64 for letter in "abcdef")
    assert str(found).splitlines() == [
        "people/anna.safetensors [output]",
        "  mini-64 (10 styles of 8)",
        "  6 people",
        "  saved 2026-11-23 14:05",
        "  1 photo (face found by mtcnn)",
        "  encoder: e4e_ffhq_encode.pt",
        "  photo SHA-256: aaaaaaaaaaaa, bbbbbbbbbbbb, cccccccccccc, dddddddddddd and 2 more",
    ]


def test_what_nobody_recorded_is_left_out(tmp_path):
    text = listing([describe_codes(save(tmp_path / f"{name}.safetensors")) for name in "ab"])
    assert [line for line in text.splitlines() if not line.startswith(" ")] == ["a.safetensors", "", "b.safetensors"]
    assert "1 person" in text
    assert "encoder" not in text


def test_photos_that_are_no_list_are_left_out(tmp_path):
    assert describe_codes(save(tmp_path / "a.safetensors", photos=12)).pictures == ()


@pytest.mark.parametrize("content", [b"", b"secret", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_no_file_of_codes_is_none(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert describe_codes(tmp_path / "a.safetensors") is None
    assert describe_codes(tmp_path / "missing.safetensors") is None
    assert describe_codes(tmp_path) is None


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "adapter"},
        {"kind": "codes"},
        {"kind": "codes", "space": {"name": "x"}, "source": "", "origin": {}},
        {"kind": "codes", "space": {"name": "x", "num_styles": "10"}, "source": "", "origin": {}},
        {"kind": "codes", "space": {"name": "x", "num_styles": 10}, "source": "", "origin": {"photos": [3]}},
        {"kind": "codes", "space": {"name": "x", "num_styles": 10}, "source": "", "origin": 3},
        {"kind": "codes", "space": {"name": "x", "num_styles": 10}, "source": "", "origin": {}, "no codes": True},
    ],
)
def test_other_files_of_pidiff_and_damaged_ones_are_none(tmp_path, config):
    tensor = "weight" if "no codes" in config else "codes"
    write_container(tmp_path / "a.safetensors", {tensor: torch.ones(1, 10, 8)}, kind=config["kind"], config=config)
    assert describe_codes(tmp_path / "a.safetensors") is None
