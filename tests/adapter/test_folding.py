"""The folded branch equals its readable twin."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.folding import (
    add_attended,
    attend,
    fold,
    localisation_map,
)
from pidiff_core.adapter.presets import ApplyOptions, combine
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.wplus.codes import WPlus, WPlusSpace

SITE = SiteSpec("input.1.0", 48, 6)
STYLES, WIDTH = 18, 32

KINDS = {
    "native-host": {"format": "pidiff", "query": "host"},
    "native-text": {"format": "pidiff", "query": "text"},
    "wplus-adapter": {"format": "wplus-adapter", "query": "text"},
}


def make_adapter(kind: str, *, sites=(SITE,), device="cpu") -> IdentityAdapter:
    torch.manual_seed(0)
    config = AdapterConfig(sites=sites, num_styles=STYLES, code_width=WIDTH, token_width=40, **KINDS[kind])
    adapter = IdentityAdapter(config).requires_grad_(False)
    for branch in adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight, std=0.2)
        torch.nn.init.normal_(branch.to_k.weight, std=0.5)
        if branch.null_key is not None:
            torch.nn.init.normal_(branch.null_key)
    torch.nn.init.normal_(adapter.projection.norm.bias)
    return adapter.to(device)


def make_wplus(identities: int) -> WPlus:
    torch.manual_seed(1)
    return WPlus(torch.randn(identities, STYLES, WIDTH), torch.randn(STYLES, WIDTH), WPlusSpace("test", STYLES, WIDTH))


def run_folded(site, q, text, *, mask=None):
    out = text.clone()
    attended = attend(site, host_query=q, text_output=text)
    add_attended(out, site, attended=attended, mask=mask)
    return out, attended


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_feature_folded_equals_reference(kind, batch, device):
    adapter = make_adapter(kind, device=device)
    tokens = adapter.tokens(make_wplus(1))
    q, text = torch.randn(2, batch, 35, SITE.width).to(device)
    a_id, localisation = adapter.branch(SITE.name)(q, text, tokens=tokens.expand(batch, -1, -1))
    out, attended = run_folded(fold(adapter, tokens)[SITE.name], q, text)
    torch.testing.assert_close(out, text + a_id, rtol=1e-5, atol=1e-5 * (text + a_id).abs().max().item())
    if kind.startswith("native"):
        torch.testing.assert_close(localisation_map(attended, pixels=35), localisation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_feature_batch_of_identities_equals_single_runs(kind, device):
    adapter = make_adapter(kind, device=device)
    wplus = make_wplus(2)
    q, text = torch.randn(2, 3, 8, SITE.width).to(device)
    mask = torch.rand(3, 8).to(device)
    out, _ = run_folded(fold(adapter, adapter.tokens(wplus))[SITE.name], q, text, mask=mask)
    for row in range(3):
        alone = fold(adapter, adapter.tokens(wplus.select(row % 2)))[SITE.name]
        expected, _ = run_folded(alone, q[row : row + 1], text[row : row + 1], mask=mask[row : row + 1])
        torch.testing.assert_close(out[row : row + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_feature_mask_scales_the_contribution_pixel_by_pixel(kind):
    adapter = make_adapter(kind)
    site = fold(adapter, adapter.tokens(make_wplus(1)))[SITE.name]
    q, text = torch.randn(2, 8, SITE.width), torch.randn(2, 8, SITE.width)
    full, _ = run_folded(site, q, text)
    mask = torch.tensor([[0.0, 1.0, 0.5, 0.25, 0.0, 1.0, 1.0, 0.0]])
    masked, _ = run_folded(site, q, text, mask=mask)
    torch.testing.assert_close(masked, text + mask[..., None] * (full - text), rtol=1e-5, atol=1e-5)
    assert torch.equal(masked[:, 0], text[:, 0])


def test_feature_zero_code_of_wplus_adapter_is_a_constant():
    adapter = make_adapter("wplus-adapter")
    torch.nn.init.normal_(adapter.projection.norm.bias)  # all that an all-zero code leaves
    zero = adapter.zero_tokens()
    assert bool((zero == zero[:, :1]).all())
    site = fold(adapter, zero)[SITE.name]
    assert site.keys is None
    q, text = torch.randn(2, 5, SITE.width), torch.randn(2, 5, SITE.width)
    a_id, _ = adapter.branch(SITE.name)(q, text, tokens=zero.expand(2, -1, -1))
    out, _ = run_folded(site, q, text)
    torch.testing.assert_close(out, text + a_id, rtol=1e-5, atol=1e-5)


def test_feature_zero_code_of_the_native_format_still_attends():
    adapter = make_adapter("native-host")
    assert fold(adapter, adapter.zero_tokens())[SITE.name].keys is not None


def test_feature_equal_tokens_beside_a_null_key_still_attend():
    """The null key makes the attention depend on the query."""
    adapter = make_adapter("native-host")
    tokens = torch.randn(1, 1, 40).expand(1, STYLES, 40)
    site = fold(adapter, tokens)[SITE.name]
    q, text = torch.randn(2, 5, SITE.width), torch.randn(2, 5, SITE.width)
    a_id, _ = adapter.branch(SITE.name)(q, text, tokens=tokens.expand(2, -1, -1))
    out, _ = run_folded(site, q, text)
    torch.testing.assert_close(out, text + a_id, rtol=1e-5, atol=1e-5)


def test_feature_the_native_format_reads_offsets_and_w_plus_adapter_codes():
    wplus = make_wplus(2)
    native, published = make_adapter("native-host"), make_adapter("wplus-adapter")
    torch.testing.assert_close(native.tokens(wplus), native.projection(wplus.codes - wplus.latent_avg))
    torch.testing.assert_close(published.tokens(wplus), published.projection(wplus.codes))


@pytest.mark.parametrize("kind", KINDS)
def test_feature_level_strength_scales_only_that_levels_values(kind):
    adapter = make_adapter(kind)
    tokens = adapter.tokens(make_wplus(1))
    q, text = torch.randn(1, 6, SITE.width), torch.randn(1, 6, SITE.width)

    def contribution(**levels):
        strengths = combine(ApplyOptions(levels=levels), adapter.config)
        out, _ = run_folded(fold(adapter, tokens, strengths=strengths.tokens)[SITE.name], q, text)
        return out - text

    parts = [
        contribution(**{other: 0.0 for other in ("coarse", "medium", "fine") if other != level})
        for level in ("coarse", "medium", "fine")
    ]
    torch.testing.assert_close(sum(parts), contribution(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(contribution(fine=2.0), contribution() + parts[2], rtol=1e-4, atol=1e-5)


def test_cardinality_sites_that_add_nothing_are_left_out():
    other = SiteSpec("middle.0.0", 48, 6)
    adapter = make_adapter("native-host", sites=(SITE, other))
    torch.nn.init.zeros_(adapter.branch(other.name).to_v.weight)
    tokens = adapter.tokens(make_wplus(1))
    assert set(fold(adapter, tokens)) == {SITE.name}
    assert fold(adapter, tokens, strengths=0.0) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_feature_half_precision_stays_close(kind, dtype, device):
    adapter = make_adapter(kind, device=device)
    site = fold(adapter, adapter.tokens(make_wplus(1)))[SITE.name]
    q, text = torch.randn(2, 2, 9, SITE.width).to(device)
    exact, _ = run_folded(site, q, text)
    half, _ = run_folded(site.to(q.device, dtype), q.to(dtype), text.to(dtype))
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()
    cosine = torch.nn.functional.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0)
    assert cosine > 0.999


@pytest.mark.parametrize("kind", ["native-host", "wplus-adapter"])
def test_feature_an_identity_on_full_size_sd15_takes_less_than_two_megabytes(kind):
    sites_of_width = {320: 5, 640: 5, 1280: 6}
    adapter = make_adapter(kind, sites=tuple(SiteSpec(f"input.{width}.0", width, 8) for width in sites_of_width))
    folded = fold(adapter, adapter.tokens(make_wplus(1)))
    assert (
        sum(sites_of_width[site.values.shape[1] * site.values.shape[3]] * site.num_bytes for site in folded.values())
        < 2e6
    )
