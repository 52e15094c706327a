"""What adds the same at every pixel: W+ Adapter's unconditional half."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.nodes.one_site import (
    KEY,
    NAME,
    PIXELS,
    added,
    needs_attention_overrides,
    options_of_a_step,
    qkv,
    replacements,
    text_attention,
)


def test_a_constant_is_the_same_at_every_pixel(small):
    """And it is what the readable twin gives for the tokens of an all-zero code."""
    patched = small.apply(kind="wplus-adapter", unconditional="average person")
    adapter = small.adapters["wplus-adapter"]
    q, k, v = qkv()
    before = v.clone()
    gained = added(patched, cond_or_uncond=[1])
    expected, _ = adapter.branch(NAME)(q, text_attention(q, k, v), tokens=adapter.zero_tokens())
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(gained, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gained, gained[:, :1].expand_as(gained), rtol=1e-4, atol=1e-5)
    assert torch.equal(v, before)


def test_a_constant_has_the_strengths_of_the_identity(small):
    """Its four tokens are equal, so a level's factor counts by its share of the tokens: 1, 1 and 2 of 4."""
    constant = {"kind": "wplus-adapter", "unconditional": "average person"}
    whole = added(small.apply(**constant), cond_or_uncond=[1])
    levels = {"coarse": 0.0, "medium": 0.5, "fine": 1.5}
    for options, factor in (({"strength": 0.5}, 0.5), ({"levels": levels}, (0.0 + 0.5 + 2 * 1.5) / 4)):
        torch.testing.assert_close(
            added(small.apply(**constant, **options), cond_or_uncond=[1]), factor * whole, rtol=1e-4, atol=1e-5
        )


def test_a_constant_does_not_turn_the_queries_of_others(small):
    """The other one attends from the text's output in the unconditional half: it must not see the constant."""
    constant = {"kind": "wplus-adapter", "unconditional": "average person"}
    attending = {"kind": "text", "unconditional": "average person", "who": 1}
    step = {"cond_or_uncond": [1]}
    expected = added(small.apply(**constant), **step) + added(small.apply(**attending), **step)
    both = added(small.apply(small.apply(**constant), **attending), **step)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_stays_under_its_mask(small):
    mask = torch.zeros(int(PIXELS**0.5), int(PIXELS**0.5))
    mask[:, 0] = 1.0
    gained = added(small.apply(kind="wplus-adapter", unconditional="average person", mask=mask), cond_or_uncond=[1])[0]
    inside = mask.flatten() > 0
    assert gained[inside].abs().max() > 0.01
    assert not gained[~inside].any()


@pytest.mark.parametrize("other", ["callback", "patch inside", "override"])
def test_other_packs_see_the_text_without_the_constant(small, other):
    """They are handed the caller's values and the text's own output, and our constant is added all the same."""
    if other == "override":
        needs_attention_overrides()
    seen = []

    def callback(out, q, k, v, extra_options, **_):
        seen.append((v, out))
        return torch.zeros_like(out)

    def inside(q, k, v, extra_options):
        seen.append((v, text_attention(q, k, v)))
        return seen[-1][1].clone()

    def override(function, q, k, v, heads, *_, **__):
        seen.append((v, text_attention(q, k, v)))
        return seen[-1][1].clone()

    model = small.model
    if other == "patch inside":
        model = model.clone()
        model.set_model_attn2_replace(inside, *KEY)
    patched = small.apply(model, kind="wplus-adapter", unconditional="average person")
    if other == "callback":
        replacements(patched)[KEY].add(callback)
    step = options_of_a_step(cond_or_uncond=[1])
    if other == "override":
        step["optimized_attention_override"] = override
    q, k, v = qkv()
    gained = replacements(patched)[KEY](q, k, v, step) - text_attention(q, k, v)
    assert seen
    assert all(torch.equal(values, v) for values, _ in seen)
    assert all(torch.equal(out, text_attention(q, k, v)) for _, out in seen)
    expected = added(small.apply(kind="wplus-adapter", unconditional="average person"), cond_or_uncond=[1])
    torch.testing.assert_close(gained, expected, rtol=1e-4, atol=1e-5)


def test_an_absent_person_of_a_batch_has_its_own_constant(small):
    """Rows of people who are not there take nothing, the others theirs."""
    wplus = dataclasses.replace(small.wplus, present=(True, False))
    options = small.patching.ApplyOptions(unconditional="average person")
    patched = small.patching.apply_identity(small.model, small.adapters["wplus-adapter"], wplus, options=options)
    gained = added(patched, rows=4, cond_or_uncond=[1])
    expected = added(small.apply(kind="wplus-adapter", unconditional="average person"), cond_or_uncond=[1])[0]
    for row in range(4):
        wanted = torch.zeros_like(expected) if row % 2 else expected
        torch.testing.assert_close(gained[row], wanted, rtol=1e-4, atol=1e-5)
