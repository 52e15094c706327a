"""Maps of sites brought together, and people placed by them."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.folding import attend, fold
from pidiff_core.adapter.maps import ColumnShares, MapAverage, site_map
from tests.adapter.test_folding import SITE, make_adapter, make_wplus

WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["native-host", "native-text"])
def test_with_a_null_key_the_map_is_the_readable_twins(kind):
    adapter = make_adapter(kind)
    tokens = adapter.tokens(make_wplus(2))
    q, text = torch.randn(2, 35, SITE.width), torch.randn(2, 35, SITE.width)
    folded = fold(adapter, tokens)[SITE.name]
    found = site_map(folded, attend(folded, host_query=q, text_output=text), text_output=text)
    _, expected = adapter.branch(SITE.name)(q, text, tokens=tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_a_null_key_the_map_is_the_share_of_the_attention_output():
    adapter = make_adapter("wplus-adapter")
    tokens = adapter.tokens(make_wplus(1))
    q, text = torch.randn(2, 35, SITE.width), torch.randn(2, 35, SITE.width)
    folded = fold(adapter, tokens)[SITE.name]
    found = site_map(folded, attend(folded, host_query=q, text_output=text), text_output=text)
    a_id, _ = adapter.branch(SITE.name)(q, text, tokens=tokens.expand(2, -1, -1))
    torch.testing.assert_close(found, a_id.norm(dim=-1) / (a_id.norm(dim=-1) + text.norm(dim=-1)), rtol=1e-4, atol=1e-5)
    assert found.min() > 0.0
    assert found.max() < 1.0


def test_the_mean_counts_the_sites_that_saw_a_pixel():
    average = MapAverage((8, 8))
    assert average.mean() is None
    average.add(torch.full((2, 4, 4), 0.5), area=WHOLE)
    average.add(torch.full((2, 2, 2), 1.0), area=(0.0, 0.5, 1.0, 1.0))
    mean = average.mean()
    assert mean.shape == (2, 8, 8)
    assert mean[..., :4].unique().tolist() == [0.5]
    assert mean[..., 4:].unique().tolist() == [0.75]


def faces(*columns, width=32):
    """A map (1, 16, width) with a face of 4 columns at each place, over a faint background."""
    made = torch.full((1, 16, width), 0.05)
    for column in columns:
        made[:, 4:12, column : column + 4] = 0.9
    return made


def shares_of(shares, *, width=32, area=WHOLE):
    like = torch.zeros(1)
    rows = [shares.share(person, (16, width), area=area, like=like) for person in range(shares.people)]
    return torch.stack(rows).reshape(shares.people, -1, 16, width)


def test_people_start_with_equal_columns_and_share_everything():
    found = shares_of(ColumnShares(2, maps_per_step=32))
    assert found[0, ..., :14].min() == 1.0
    assert found[1, ..., 18:].min() == 1.0
    torch.testing.assert_close(found.sum(dim=0), torch.ones_like(found[0]))


@pytest.mark.parametrize(("left", "right"), [(1, 8), (2, 26), (20, 27)])
def test_each_person_gets_a_face_wherever_the_faces_are(left, right):
    shares = ColumnShares(2, maps_per_step=32)
    for _ in range(200):
        shares.add(faces(left, right), area=WHOLE)
    found = shares_of(shares)
    assert found[0, ..., left : left + 4].min() > 0.95
    assert found[1, ..., right : right + 4].min() > 0.95
    assert found[0, ..., right : right + 4].max() < 0.05


def test_shares_keep_two_fifths_of_what_they_were_after_an_evaluation():
    """Seen without smoothing: a face of a sixteenth of the width, of which the distribution then has three fifths."""
    shares = ColumnShares(2, maps_per_step=8)
    for _ in range(8):
        shares.add(faces(14, width=32) - 0.05, area=WHOLE)
    mass = shares._mass[0]
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert mass[:24].sum().item() == pytest.approx(0.4 * 24 / 64, abs=0.02)


def test_three_people_and_rows_of_a_batch_that_differ():
    shares = ColumnShares(3, maps_per_step=32)
    for _ in range(200):
        shares.add(torch.cat([faces(1, 8, 15), faces(8, 17, 27)]), area=WHOLE)
    found = shares_of(shares)
    assert found.shape == (3, 2, 16, 32)
    for row, places in enumerate([(1, 8, 15), (8, 17, 27)]):
        for person, place in enumerate(places):
            assert found[person, row, :, place + 1 : place + 3].min() > 0.9


def test_a_regional_prompt_sees_its_own_part_of_the_shares():
    shares = ColumnShares(2, maps_per_step=32)
    right_half = (0.0, 0.5, 1.0, 1.0)
    found = shares_of(shares, width=16, area=right_half)
    assert found[0, ..., 3:].max() == 0.0
    assert found[1, ..., 3:].min() == 1.0
    for _ in range(100):
        shares.add(faces(6, width=16), area=(0.0, 0.0, 1.0, 0.5))
        shares.add(faces(6, width=16), area=right_half)
    whole = shares_of(shares)
    assert whole[0, ..., 6:10].min() > 0.95
    assert whole[1, ..., 22:26].min() > 0.95


@pytest.mark.parametrize(
    ("pictures", "split"),
    [
        ([faces(2, 26)], []),
        ([faces(14)], [0]),
        ([faces(2, 26), faces(13), faces(4, 20)], [1]),
        ([torch.ones(1, 16, 32)], []),  # maps that show no face
    ],
)
def test_pictures_with_fewer_faces_than_people_are_named(pictures, split):
    shares = ColumnShares(2, maps_per_step=32)
    assert shares.split_rows() == []
    for _ in range(200):
        shares.add(torch.cat(pictures), area=WHOLE)
    assert shares.split_rows() == split


def test_three_people_need_three_faces():
    shares = ColumnShares(3, maps_per_step=32)
    for _ in range(200):
        shares.add(torch.cat([faces(1, 14, 27), faces(4, 20)]), area=WHOLE)
    assert shares.split_rows() == [1]


def test_nothing_waits_for_the_device():
    """On the meta device every value that is read back is an error."""
    shares = ColumnShares(2, maps_per_step=32)
    shares.add(torch.zeros(2, 8, 8, device="meta"), area=WHOLE)
    assert shares.share(1, (8, 8), area=WHOLE, like=torch.zeros(1, device="meta")).shape == (2, 64)
