"""A site's patch among others: other packs, other guiders, regional prompts, hosts whose clones share objects."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from tests.nodes.one_site import (
    KEY,
    NAME,
    PIXELS,
    WIDTH,
    added,
    cond,
    needs_attention_overrides,
    options_of_a_step,
    qkv,
    replacements,
    text_attention,
)


def sample(small, model, *, positive=None, cfg=3.0, size=(8, 8), guider=None):
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros(1, 4, *size)
    if guider is None:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive or small.positive, small.negative)
        guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    noise = comfy.sample.prepare_noise(latent, 11)
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)


def test_every_layer_of_every_block_has_a_site_and_keys_as_other_packs_write_them(small):
    names = {"input.1.0", "input.3.0", "input.3.1", "middle.0.0", "middle.0.1", "output.0.0", "output.0.1",
             "output.1.0", "output.1.1", "output.2.0", "output.3.0"}  # fmt: skip
    assert set(small.found) == names
    keys = set(replacements(small.apply()))
    assert KEY in keys
    assert ("input", 3, 1) in keys
    assert len(keys) == len(names)


@pytest.mark.parametrize("kind", ["host", "text", "wplus-adapter"])
@pytest.mark.parametrize("halves", [[0], [1], [0, 1], [1, 0], [0, 0, 1], [0, 1, 2]])
def test_each_chunk_gets_what_its_half_gets_in_every_order(small, kind, halves):
    patched = small.apply(kind=kind, unconditional="auto")
    q, k, v = qkv()
    fresh = {half: small.apply(kind=kind, unconditional="auto") for half in (0, 1)}  # nothing cached by the other half
    alone = {half: added(model, cond_or_uncond=[half])[0] for half, model in fresh.items()}
    assert alone[0].abs().max() > 0.01
    assert (alone[1].abs().max() > 0.01) == (kind == "wplus-adapter")
    many = [x.repeat(len(halves), 1, 1) for x in (q, k, v)]
    joined = replacements(patched)[KEY](*many, options_of_a_step(cond_or_uncond=halves)) - text_attention(*many)
    for row, half in enumerate(halves):
        expected = alone[half] if half in alone else torch.zeros_like(alone[0])  # neither half gets nothing
        torch.testing.assert_close(joined[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["host", "text", "wplus-adapter"])
def test_chained_identities_add_what_each_adds_alone_in_either_order(small, kind):
    first, second = (added(small.apply(who=who, kind=kind)) for who in (0, 1))
    for order in ((0, 1), (1, 0)):
        both = added(small.apply(small.apply(who=order[0], kind=kind), who=order[1], kind=kind))
        torch.testing.assert_close(both, first + second, rtol=1e-4, atol=1e-5)


def test_masks_go_round_over_a_batch_as_identities_do(small):
    masks = torch.zeros(2, 8, 8)
    masks[0, :4], masks[1, 4:] = 1, 1
    rows = added(small.apply(mask=masks), rows=3)
    for row, (there, away) in enumerate(
        ((slice(0, 32), slice(32, 64)), (slice(32, 64), slice(0, 32)), (slice(0, 32), slice(32, 64)))
    ):
        assert rows[row, there].abs().amax() > 0.01
        assert rows[row, away].abs().amax() == 0


def test_a_grey_mask_is_a_weaker_identity(small):
    free = added(small.apply())
    torch.testing.assert_close(added(small.apply(mask=torch.full((1, 8, 8), 0.3))), 0.3 * free, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [None, [1, WIDTH, 5, 5]])
def test_a_map_that_another_pack_has_cut_up_still_gets_its_mask(small, shape):
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    contribution = added(small.apply(mask=mask), activations_shape=shape, original_shape=[1, 4, 16, 16])
    assert contribution[0, :32].abs().amax() > 0.01
    assert contribution[0, 32:].abs().amax() == 0


def test_a_mask_lies_on_the_picture_and_not_on_a_regional_prompts_part_of_it(small):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    masked, free = small.apply(mask=mask), small.apply()
    right = cond(1, area=(8, 4, 0, 4), strength=1.0)
    left = cond(1, area=(8, 4, 0, 0), strength=1.0)
    run = {side: [sample(small, model, positive=side_cond) for model in (small.model, masked, free)]
           for side, side_cond in (("left", left), ("right", right))}  # fmt: skip
    vanilla, with_mask, without = run["right"]
    torch.testing.assert_close(with_mask, vanilla, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(without, vanilla, rtol=1e-3, atol=1e-3)
    vanilla, with_mask, without = run["left"]
    torch.testing.assert_close(with_mask, without, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(without, vanilla, rtol=1e-3, atol=1e-3)


def test_guiders_that_list_their_prompts_otherwise_give_the_identity_to_the_positive_one(small):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    patched = small.apply()
    expected = sample(small, patched, cfg=1.0)
    assert not torch.allclose(expected, sample(small, small.model, cfg=1.0), rtol=1e-3, atol=1e-3)
    dual = Guider_DualCFG(patched)
    dual.set_conds(small.positive, small.negative, small.negative)
    dual.set_cfg(1.0, 1.0)
    torch.testing.assert_close(sample(small, patched, guider=dual), expected, rtol=1e-4, atol=1e-4)
    perpendicular = Guider_PerpNeg(patched)
    perpendicular.set_conds(small.positive, small.negative, cond(3))
    perpendicular.set_cfg(1.0, 0.0)
    torch.testing.assert_close(sample(small, patched, guider=perpendicular), expected, rtol=1e-4, atol=1e-4)
    perpendicular.set_cfg(3.0, 1.0)
    assert sample(small, patched, guider=perpendicular).isfinite().all()


def push(out, q, k, v, extra_options, *, factor, **_):
    return factor * out


def by_hand(text, *factors):
    for factor in factors:
        text = text + factor * text
    return text


def test_callbacks_of_other_packs_see_what_they_would_see_without_us(small):
    patched = small.apply()
    ours = added(patched)
    patch = replacements(patched)[KEY]
    q, k, v = qkv()
    for factor in (0.5, 0.25):
        patch.add(push, factor=factor, sigma_start=2.0, sigma_end=0.5)
    for sigma_start, sigma_end in ((0.5, 0.0), (9.0, 1.5)):  # not at this sigma
        patch.add(push, factor=100.0, sigma_start=sigma_start, sigma_end=sigma_end)
    out = patch(q, k, v, options_of_a_step())
    torch.testing.assert_close(out, by_hand(text_attention(q, k, v), 0.5, 0.25) + ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True], ids=["clones copy", "clones share objects"])
def test_what_another_pack_adds_to_a_clone_stays_in_that_clone(small, shared, monkeypatch):
    import comfy.model_patcher

    shares = not hasattr(comfy.model_patcher, "copy")  # from February 2026 on; before, it deep-copied
    if shares and not shared:
        pytest.skip("clones share objects in this host")
    if shared and not shares:
        sharing = SimpleNamespace(deepcopy=comfy.model_patcher.create_model_options_clone, copy=copy.copy)
        monkeypatch.setattr(comfy.model_patcher, "copy", sharing)
    patched = small.apply()
    before = added(patched)
    clone = patched.clone()
    replacements(clone)[KEY].add(push, factor=0.5, sigma_start=1e9, sigma_end=0.0)
    assert torch.equal(added(patched), before)
    assert not torch.equal(added(clone), before)
    assert not torch.equal(added(clone.clone()), before)
    text = text_attention(*qkv())
    second = added(small.apply(clone, who=1)) - added(small.apply(patched, who=1))
    torch.testing.assert_close(second, 0.5 * text, rtol=1e-4, atol=1e-4)  # the callback outlives the next Apply node
    assert torch.equal(added(small.apply(patched, who=1)), added(small.apply(small.apply(), who=1)))


def test_the_older_contract_is_answered_with_the_remedy(small):
    with pytest.raises(small.error, match="before Apply Identity Adapter"):
        replacements(small.apply())[KEY].set_new_condition(weight=1.0, ipadapter=None, number=0)


class Foreign:
    """Another pack's patch that holds a model of its own and returns what it keeps."""

    def __init__(self):
        self.output, self.moved = torch.zeros(1, PIXELS, WIDTH), []

    def __call__(self, q, k, v, extra_options):
        return self.output

    def to(self, target):
        self.moved.append(target)
        return self

    def models(self):
        return ["its model"]


def test_a_patch_inside_is_moved_and_loaded_and_its_output_stays_its_own(small):
    foreign = Foreign()
    model = small.model.clone()
    model.set_model_attn2_replace(foreign, *KEY)
    patch = replacements(small.apply(model))[KEY]
    out = patch(*qkv(), options_of_a_step())
    assert out.abs().max() > 0.01
    assert not foreign.output.any()
    assert patch.to("cpu") is patch
    assert patch.inner.moved[-1] == "cpu"
    assert patch.models() == ["its model"]


@pytest.mark.parametrize("kind", ["host", "text", "wplus-adapter"])
def test_what_another_pack_adds_before_ours_does_not_turn_our_queries(small, kind):
    model, (q, _, _) = small.model.clone(), qkv()
    model.set_model_attn2_replace(lambda q, k, v, _: text_attention(q, k, v) + 2.0 * q, *KEY)
    contribution = added(small.apply(model, kind=kind)) - 2.0 * q
    torch.testing.assert_close(contribution, added(small.apply(kind=kind)), rtol=1e-4, atol=1e-5)


def test_what_sits_on_the_whole_block_is_kept_under_each_of_its_layers(small):
    foreign = Foreign()
    model = small.model.clone()
    model.set_model_attn2_replace(foreign, "input", 3)
    there = replacements(small.apply(model))
    assert all(isinstance(there["input", 3, index].inner, Foreign) for index in (0, 1))


def test_an_override_of_the_hosts_attention_is_honoured(small):
    needs_attention_overrides()
    kept = torch.ones(1, PIXELS, WIDTH)  # what such a pack returns may be its own to keep
    out = replacements(small.apply())[KEY](
        *qkv(), options_of_a_step(optimized_attention_override=lambda *_, **__: kept)
    )
    assert torch.equal(kept, torch.ones_like(kept))
    assert not torch.equal(out, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", [None, torch.float32], ids=["", "scores in fp32"])
def test_half_precision_stays_close_and_keeps_its_type(small, dtype, precision, monkeypatch):
    attention = small.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2
    monkeypatch.setattr(attention, "attn_precision", precision)
    identity = small.patching.run_state_of(small.apply(kind="text")).identities[0]
    assert identity.site(NAME, 0, like=torch.zeros((), dtype=dtype)).keys.dtype == (precision or dtype)
    patch = replacements(small.apply(kind="text"))[KEY]
    exact = patch(*qkv(), options_of_a_step())
    patch.inner = (lambda q, k, v, _: text_attention(q, k, v).float()) if precision else None  # a type of its own
    half = patch(*qkv(dtype=dtype), options_of_a_step(attn_precision=precision))
    assert half.dtype == dtype
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0) > 0.999


def test_gradients_flow_through_a_patched_step(small):
    q, k, v = (x.requires_grad_() for x in qkv())
    with torch.inference_mode():  # as nodes run
        patched = small.apply(mask=torch.rand(1, 8, 8))
    replacements(patched)[KEY](q, k, v, options_of_a_step()).square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in (q, k, v))
