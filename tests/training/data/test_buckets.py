"""Aspect buckets and the crops in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.training.data.buckets import bucket_sizes, closer_crop, nearest_bucket, widest_crop

HEAD = (300.0, 50.0, 420.0, 190.0)


@pytest.mark.parametrize("resolution", [128, 512, 768, 1024])
def test_buckets_are_multiples_of_64_within_the_area(resolution):
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes
    assert all(h % 64 == 0 and w % 64 == 0 and h * w <= resolution**2 for h, w in sizes)
    assert all(min(size) >= resolution // 2 for size in sizes)
    assert {(w, h) for h, w in sizes} == set(sizes)


def test_well_known_sizes_of_xl():
    assert {(1024, 1024), (832, 1216), (1216, 832), (768, 1344), (640, 1536)} <= set(bucket_sizes(1024))


@pytest.mark.parametrize(
    ("photo_px", "expected"),
    [((600, 600), (512, 512)), ((1080, 1920), (384, 640)), ((4000, 3000), (576, 448)), ((100, 1000), (256, 1024))],
)
def test_the_bucket_of_the_nearest_aspect(photo_px, expected):
    assert nearest_bucket(photo_px, bucket_sizes(512)) == expected


def test_a_resolution_below_the_step():
    with pytest.raises(PIDiffError, match="steps of 64 px"):
        bucket_sizes(48)


def test_the_widest_crop_centres_the_head():
    box = widest_crop((200, 600), (64, 64), head_xyxy=HEAD)
    assert box.resized_px == (64, 192)
    assert (box.top, box.left) == (0, round((300 + 420) / 2 * 64 / 200) - 32)
    at_the_edge = widest_crop((200, 600), (64, 64), head_xyxy=(560, 50, 600, 90))
    assert at_the_edge.left == 192 - 64


def test_closer_crops_hold_the_head_and_differ():
    rng = np.random.default_rng(0)
    boxes = [closer_crop((400, 600), (128, 192), head_xyxy=HEAD, rng=rng) for _ in range(50)]
    assert len({(box.resized_px, box.top, box.left) for box in boxes}) > 40
    for box in boxes:
        scale = box.resized_px[0] / 400
        assert 0.32 <= scale <= 0.65
        assert box.left <= HEAD[0] * scale + 1
        assert box.left + 192 >= HEAD[2] * scale - 1
        assert box.top <= HEAD[1] * scale + 1
        assert box.top + 128 >= HEAD[3] * scale - 1


def test_cut_takes_the_right_pixels():
    image = torch.arange(600.0).expand(1, 1, 200, 600) / 600
    box = widest_crop((200, 600), (200, 200), head_xyxy=(100, 0, 200, 200))
    assert torch.equal(box.cut(image)[0, 0, 0], image[0, 0, 0, 50:250])
