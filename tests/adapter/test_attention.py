"""The identity branch: what it computes, and that an untrained one is exactly nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.attention import identity_attention
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import Site, SiteSpec
from pidiff_core.errors import PIDiffError

SITES = (SiteSpec("input.1.0", 32, 4), SiteSpec("middle.0.0", 64, 8))


def make_config(**changes) -> AdapterConfig:
    return AdapterConfig(**{"sites": SITES, "num_styles": 10, "code_width": 16, "token_width": 24} | changes)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("null", [False, True])
def test_feature_equals_scaled_dot_product_attention_with_one_more_key(heads, null, device):
    generator = torch.Generator().manual_seed(0)
    q, k, v, null_key = (
        torch.randn(shape, generator=generator).to(device) for shape in ((2, 15, 32), (2, 5, 32), (2, 5, 32), (32,))
    )
    out, localisation = identity_attention(q, k, v=v, null_key=null_key if null else None, heads=heads)
    keys = torch.cat([null_key.expand(2, 1, 32), k], dim=1) if null else k
    values = torch.cat([v.new_zeros(2, 1, 32), v], dim=1) if null else v
    split = [rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, keys, values)]
    expected = rearrange(F.scaled_dot_product_attention(*split), "b h n d -> b n (h d)")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert localisation.shape == (2, 15)
    assert (localisation >= 0).all()
    assert (localisation <= 1).all()
    assert bool((localisation == 1).all()) is not null


def test_feature_the_null_key_wins_where_the_query_matches_it():
    null_key = torch.full((8,), 3.0)
    k, v = -torch.ones(1, 2, 8), torch.ones(1, 2, 8)
    q = torch.stack([torch.full((8,), 5.0), torch.full((8,), -5.0)])[None]
    out, localisation = identity_attention(q, k, v=v, null_key=null_key, heads=2)
    assert localisation[0, 0] < 1e-4 < 0.99 < localisation[0, 1]
    assert out[0, 0].abs().max() < 1e-4 < 0.99 < out[0, 1].min()


@pytest.mark.parametrize(
    "changes",
    [{}, {"query": "text"}, {"sharing": "level"}, {"hidden": 8}, {"mixer_layers": 2}],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_cardinality_untrained_branch_is_exactly_zero_and_gradients_reach_every_weight(changes, device):
    torch.manual_seed(0)
    adapter = IdentityAdapter(make_config(**changes)).to(device)
    tokens = adapter.projection(torch.randn(2, 10, 16, device=device))
    assert tokens.shape == (2, 10, 24)
    q, text = torch.randn(2, 2, 9, 32, device=device)
    out, _ = adapter.sites["input.1.0"](q, text, tokens=tokens)
    assert out.shape == (2, 9, 32)
    assert torch.count_nonzero(out) == 0
    for branch in adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight)
    for name, parameter in adapter.projection.named_parameters():
        if "across" in name:
            torch.nn.init.normal_(parameter)
    total = torch.zeros((), device=device)
    for spec in SITES:
        q, text = torch.randn(2, 2, 9, spec.width, device=device)
        codes = torch.randn(2, 10, 16, device=device)
        out, localisation = adapter.branch(spec.name)(q, text, tokens=adapter.projection(codes))
        total = total + out.square().sum() + localisation.square().sum()
    total.backward()
    unreached = [
        name
        for name, parameter in adapter.named_parameters()
        if not (parameter.grad is not None and parameter.grad.abs().sum() > 0)
    ]
    assert not unreached


def test_feature_each_token_is_its_own_styles():
    torch.manual_seed(0)
    projection = IdentityAdapter(make_config()).projection
    offsets = torch.randn(1, 10, 16)
    edited = offsets.clone()
    edited[:, 3] += 1
    changed = (projection(offsets) != projection(edited)).any(dim=-1)[0]
    assert changed.tolist() == [index == 3 for index in range(10)]


def test_feature_offsets_are_brought_to_unit_scale():
    torch.manual_seed(0)
    projection = IdentityAdapter(make_config()).projection
    offsets, spread = torch.randn(2, 10, 16), torch.rand(10, 16) + 0.5
    expected = projection(offsets)
    projection.code_std.copy_(spread)
    torch.testing.assert_close(projection(offsets * spread), expected, rtol=1e-4, atol=1e-5)


def test_feature_level_sharing_uses_three_sets_of_weights():
    projection = IdentityAdapter(make_config(sharing="level")).projection
    assert projection.layers[0].weight.shape[0] == 3
    assert projection.layers[0].group_of_style.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]


def test_state_dict_names_are_the_checkpoints():
    names = set(IdentityAdapter(make_config(query="text")).state_dict())
    assert {f"sites.input_1_0.{x}" for x in ("to_k.weight", "to_v.weight", "to_q.weight", "null_key")} <= names
    assert all(name.startswith(("projection.", "sites.")) for name in names)
    assert "projection.code_std" in names


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "ipadapter"},
        {"query": "keys"},
        {"sites": ()},
        {"sites": (("input.1.0", 30, 4),)},
        {"sites": (("attic.1.0", 32, 4),)},
        {"sites": (("input.1", 32, 4),)},
        {"sites": (("input.1.0", 32, 4),) * 2},
        {"num_styles": 0},
    ],
    ids=str,
)
def test_exception_config(changes):
    with pytest.raises(PIDiffError):
        make_config(**changes)


def test_exception_unknown_site_names_the_known_ones():
    with pytest.raises(PIDiffError, match=r"output\.9\.0.*input\.1\.0"):
        IdentityAdapter(make_config()).branch("output.9.0")


def test_smoke_config_and_site_survive_json():
    config = make_config(hidden=8)
    assert AdapterConfig.from_dict(config.to_dict()) == config
    assert Site.from_name("output.11.2").name == "output.11.2"
    with pytest.raises(PIDiffError, match="another version"):
        AdapterConfig.from_dict(config.to_dict() | {"colour": "red"})
