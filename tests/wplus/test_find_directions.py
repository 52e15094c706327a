"""Directions found in a world of which the answer is known: properties are linear in w, with correlated people."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.wplus.codes import WPlus, WPlusSpace
from pidiff_core.wplus.direction_files import find_direction, load_directions, save_directions
from pidiff_core.wplus.directions import Direction, apply_direction
from pidiff_core.wplus.find_directions import direction_of_groups, measured_directions, principal_directions

SPACE = WPlusSpace("test", 6, 16)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def people(count, seed=0):
    """w (N, 16) of unequal, correlated spread."""
    mixing = torch.randn(16, 16, generator=rng(9)) * torch.linspace(2.0, 0.2, 16)
    return torch.randn(count, 16, generator=rng(seed)) @ mixing.T


def codes_of(w):
    return WPlus(w[:, None].expand(-1, 6, -1), torch.zeros(6, 16), SPACE, source="test")


def test_each_measured_direction_moves_its_own_property_alone():
    w = people(400)
    truth = torch.randn(16, 3, generator=rng(1))
    truth[:, 1] += truth[:, 0]  # correlated properties
    values = w @ truth
    found = measured_directions(w, dict(zip(("a", "b", "c"), (values + 0.01 * torch.randn(400, 3)).T)))
    spread = values.std(dim=0)
    for number, one in enumerate(found):
        assert one.quality > 0.95
        moved = (one.direction.vector[0] @ truth) / spread
        assert moved[number] == pytest.approx(2.0, abs=0.1)
        assert max(abs(float(moved[other])) for other in range(3) if other != number) < 0.1


def test_noise_is_not_predicted():
    w = people(200)
    (found,) = measured_directions(w, {"noise": torch.randn(200, generator=rng(2))})
    assert found.quality < 0.1


def test_portraits_without_a_face_do_not_count_and_constants_have_no_direction():
    w = people(100)
    values = w[:, 0].clone()
    values[::10] = torch.nan
    found = measured_directions(w, {"a": values, "constant": torch.ones(100)})
    assert [one.direction.name for one in found] == ["a"]
    rare = w[:, 1].clone()
    rare[:60] = torch.nan
    found = measured_directions(w, {"a": values, "rare": rare})
    assert [one.direction.name for one in found] == ["a"]
    rare[40:60] = w[40:60, 1]
    found = measured_directions(w, {"a": values, "not rare": rare})
    assert [one.direction.name for one in found] == ["a", "not rare"]
    with pytest.raises(PIDiffError, match="measured on 0 of 100 portraits"):
        measured_directions(w, {"a": torch.full((100,), torch.nan)})
    with pytest.raises(PIDiffError, match="do not differ"):
        measured_directions(w, {"a": torch.ones(100)})


def test_two_groups_lead_from_one_mean_to_the_other():
    base = people(60)
    truth = torch.zeros(16)
    truth[3] = 4.0
    having, lacking = codes_of(base[:30] + truth), codes_of(base[30:])
    found = direction_of_groups(having, lacking, name="hat")
    assert found.quality > 0.9
    vector = found.direction.vector
    assert vector.shape == (6, 16)
    weight = vector.flatten().double() / vector.norm() ** 2
    apart = (having.codes.mean(dim=0) - lacking.codes.mean(dim=0)).flatten().double()
    assert float(apart @ weight) == pytest.approx(1.0, abs=1e-4)
    moved = apply_direction(lacking, found.direction, amount=1.0)
    assert float((moved.codes - lacking.codes).flatten(1)[0].double() @ weight) == pytest.approx(1.0, abs=1e-4)


def test_groups_without_a_difference_are_at_chance():
    found = direction_of_groups(codes_of(people(40, 3)), codes_of(people(40, 4)), name="nothing")
    assert found.quality < 0.75


def test_exception_groups():
    few = codes_of(people(2))
    with pytest.raises(PIDiffError, match="have 2 and 30 faces; at least 3"):
        direction_of_groups(few, codes_of(people(30)), name="a")
    same = codes_of(people(1).expand(5, -1))
    with pytest.raises(PIDiffError, match="equal codes"):
        direction_of_groups(same, same, name="a")


def test_components_are_ordered_orthogonal_and_two_standard_deviations_long():
    w = people(2000)
    found = principal_directions(w, count=4)
    vectors = torch.stack([one.direction.vector[0] for one in found])
    shares = [one.quality for one in found]
    assert shares == sorted(shares, reverse=True)
    normalised = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(normalised @ normalised.T, torch.eye(4), atol=1e-4, rtol=0)
    spread = (w @ normalised.T).std(dim=0)
    torch.testing.assert_close(vectors.norm(dim=1), 2.0 * spread, rtol=1e-3, atol=0)
    with pytest.raises(PIDiffError, match="99 components were asked for"):
        principal_directions(w, count=99)


def test_a_file_of_directions_is_read_by_name_and_never_overwritten(tmp_path):
    made = [Direction("smile", torch.randn(6, 16)), Direction("hair: light", torch.randn(1, 16))]
    first = save_directions(tmp_path, "mine", made, space=SPACE)
    second = save_directions(tmp_path, "mine", made[:1], space=SPACE)
    assert (first.name, second.name) == ("mine.directions.safetensors", "mine_2.directions.safetensors")
    loaded = load_directions(first)
    assert list(loaded) == ["smile", "hair: light"]
    for one, again in zip(made, loaded.values()):
        assert torch.equal(one.vector, again.vector)
        assert again.space == SPACE
    files = {path.name: str(path) for path in (first, second)}
    named = find_direction(f"{first.name}:smile", own={}, space=SPACE, find_file=files.get)
    assert torch.equal(named.vector, made[0].vector)
    other = WPlus(torch.zeros(1, 6, 16), torch.zeros(6, 16), WPlusSpace("other", 6, 16))
    with pytest.raises(PIDiffError, match="belongs to test"):
        apply_direction(other, named, amount=1.0)
    with pytest.raises(PIDiffError, match="same name"):
        save_directions(tmp_path, "twice", [made[0], made[0]], space=SPACE)
