"""The invariants of an applied identity, in ComfyUI's own UNet and sampler (mini's UNet)."""

from __future__ import annotations

import copy

import pytest
import torch


def assert_added(mini, calls, **expected):
    """At every site, what the readable branch adds to the conditional half, and nothing else."""
    assert {call.site for call in calls} == {spec.name for spec in mini.pidiff_model.adapter.config.sites}
    for call in calls:
        wanted = mini.expected(call, **expected)
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(call.added, wanted, rtol=1e-4, atol=1e-5)


def test_an_identity_adds_at_every_site_of_every_step_what_the_readable_branch_adds(mini):
    calls = mini.seen(mini.apply(codes=mini.wplus.select(0)), steps=4)
    assert calls.evaluations == 4
    assert_added(mini, calls.calls)
    assert_added(mini, mini.seen(mini.apply(codes=mini.wplus.select(1), strength=0.5)).calls, who=1, factors=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0},
        {"mask": torch.zeros(1, 40, 40)},
        {"start_percent": 0.5, "end_percent": 0.5},
        {"start_percent": 0.8, "end_percent": 0.2},
        {"coarse": 0.0, "medium": 0.0, "fine": 0.0},
    ],
    ids=["strength 0", "all-zero mask", "empty range", "range the wrong way round", "all levels 0"],
)
def test_what_adds_nothing_is_the_vanilla_picture_bit_for_bit(mini, options):
    assert torch.equal(mini.sample(mini.apply(**options)), mini.vanilla)


def test_a_zero_initialised_branch_is_the_vanilla_picture_bit_for_bit(mini):
    untrained = copy.deepcopy(mini.pidiff_model.adapter)
    for branch in untrained.sites.values():
        torch.nn.init.zeros_(branch.to_v.weight)
    options = mini.patching.ApplyOptions()
    patched = mini.patching.apply_identity(mini.model, untrained, mini.wplus, options=options)
    assert torch.equal(mini.sample(patched), mini.vanilla)


def test_a_full_mask_equals_no_mask(mini):
    assert torch.equal(mini.sample(mini.apply(mask=torch.ones(1, 24, 56))), mini.sample(mini.apply()))


def test_the_model_that_was_given_stays_as_it_was(mini):
    patched = mini.apply()
    other = mini.apply(codes=mini.wplus.select(1))
    first = mini.sample(patched)
    assert not torch.equal(mini.sample(other), first)
    assert torch.equal(mini.sample(mini.model), mini.vanilla)
    assert torch.equal(mini.sample(patched), first)


def test_a_batch_of_identities_equals_single_runs(mini):
    noise_rows = mini.sample(mini.apply(), batch=2)
    for row in range(2):
        alone = mini.sample(mini.apply(codes=mini.wplus.select(row)), batch=2)
        torch.testing.assert_close(noise_rows[row], alone[row], rtol=1e-4, atol=1e-4)


def test_cond_and_uncond_split_equal_the_joined_batch(mini, monkeypatch):
    expected = mini.sample(mini.apply())
    # A host that is short of memory runs the halves one after the other.
    monkeypatch.setattr(type(mini.model.model), "memory_required", lambda *_, **__: 1e18)
    torch.testing.assert_close(mini.sample(mini.apply()), expected, rtol=1e-4, atol=1e-4)


def test_a_mask_keeps_the_identity_out_of_the_rest_in_one_step(mini):
    mask = torch.zeros(1, 16, 16)
    mask[..., :8] = 1
    name = "input.1.0"
    options = {
        "cond_or_uncond": [0, 1],
        "n_heads": 2,
        "activations_shape": [2, 64, 16, 16],
        "sigmas": torch.tensor([1.0]),
    }
    patched = mini.apply(codes=mini.wplus.select(0), mask=mask)
    patch = patched.model_options["transformer_options"]["patches_replace"]["attn2"][("input", 1)]
    assert patch.name == name
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 256, 64), torch.randn(2, 9, 64), torch.randn(2, 9, 64)
    from comfy.ldm.modules.attention import optimized_attention

    added = (patch(q, k, v, options) - optimized_attention(q, k, v, 2)).unflatten(1, (16, 16))
    assert added[0, :, :8].abs().amax() > 1e-3
    assert torch.equal(added[0, :, 8:], torch.zeros_like(added[0, :, 8:]))
    assert torch.equal(added[1], torch.zeros_like(added[1]))  # the unconditional half gets no identity


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 13)])
def test_a_mask_of_any_size_covers_the_same_part_of_a_latent_of_any_size(mini, size):
    """From 20 % to 70 % of the height: nothing above and below, the whole identity in the middle."""
    mask = torch.zeros(1, 100, 60)
    mask[:, 20:70] = 1
    checked = 0
    for call in mini.seen(mini.apply(codes=mini.wplus.select(0), mask=mask), size=size).calls:
        height = call.size[0]
        free = mini.expected(call).unflatten(1, call.size)
        added = call.added.unflatten(1, call.size)
        for row in range(height):
            # The mask is smoothed when it is made smaller: a row beside a border has a part of it.
            if (row + 2) / height <= 0.2 or (row - 1) / height >= 0.7:
                assert not added[:, row].any(), (call.site, row)
                checked += 1
            elif (row - 1) / height >= 0.2 and (row + 2) / height <= 0.7:
                torch.testing.assert_close(added[:, row], free[:, row], rtol=1e-4, atol=1e-5)
                checked += 1
    assert checked > 10


def test_identities_of_a_chain_add_up_each_under_its_own_mask(mini):
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[..., :8], right[..., 8:] = 1, 1
    one = mini.apply(codes=mini.wplus.select(0), mask=left)
    before = mini.sample(one)
    both = mini.apply(one, codes=mini.wplus.select(1), mask=right)
    for call in mini.seen(both).calls:
        width = call.size[1]
        added = call.added.unflatten(1, call.size)
        for who, columns in ((0, slice(0, width // 2 - 1)), (1, slice(width // 2 + 1, width))):
            free = mini.expected(call, who).unflatten(1, call.size)
            torch.testing.assert_close(added[:, :, columns], free[:, :, columns], rtol=1e-4, atol=1e-5)
    assert torch.equal(mini.sample(one), before)


def test_a_range_starts_late(mini):
    """The normal schedule of four steps is at 0, 1/3, 2/3 and 1 of the sampling."""
    calls = mini.seen(mini.apply(codes=mini.wplus.select(0), start_percent=0.5), steps=4).calls
    assert not any(call.added.any() for call in calls if call.evaluation <= 2)
    assert_added(mini, [call for call in calls if call.evaluation > 2])


class Foreign:
    """The published contract of IPAdapter_plus, InstantID and PuLID: an object at the key, and callbacks added to it,
    each called between its own two noise levels with what is there so far."""

    def __init__(self, callback, **kwargs):
        self.callbacks, self.kwargs = [callback], [kwargs]

    def add(self, callback, **kwargs):
        self.callbacks.append(callback)
        self.kwargs.append(kwargs)

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, extra_options["n_heads"])
        sigma = float(extra_options["sigmas"][0])
        for callback, kwargs in zip(self.callbacks, self.kwargs):
            if kwargs["sigma_end"] <= sigma <= kwargs["sigma_start"]:
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out.to(q.dtype)


def push(out, q, k, v, extra_options, *, amount, **_):
    return amount + 0.5 * out


def add_foreign(model, key=("input", 1), *, amount=0.05, sigma_start=1e9, sigma_end=0.0):
    """As those packs do it: a new object where the key is free, else `.add` on what is there."""
    model = model.clone()
    there = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    settings = {"amount": amount, "sigma_start": sigma_start, "sigma_end": sigma_end}
    if key in there:
        there[key].add(push, **settings)
    else:
        model.set_model_attn2_replace(Foreign(push, **settings), *key)
    return model


def test_other_packs_before_and_after_give_the_same_sum(mini):
    middle = float(mini.model.get_model_object("model_sampling").percent_to_sigma(0.5))
    ours = mini.apply()
    alone = mini.sample(ours, steps=4)
    for settings in ({}, {"sigma_end": middle}, {"sigma_start": middle}):
        before = mini.sample(mini.apply(add_foreign(mini.model, **settings)), steps=4)
        after = mini.sample(add_foreign(ours, **settings), steps=4)
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
        assert not torch.equal(after, alone)


def test_another_pack_around_ours_adds_what_it_adds_without_us(mini):
    twice = mini.apply(add_foreign(add_foreign(mini.model), amount=0.1))
    around = add_foreign(mini.apply(add_foreign(mini.model)), amount=0.1)
    torch.testing.assert_close(mini.sample(around), mini.sample(twice), rtol=1e-4, atol=1e-4)


def test_strength_zero_leaves_another_packs_picture_bit_for_bit(mini):
    theirs = mini.sample(add_foreign(mini.model))
    assert torch.equal(mini.sample(mini.apply(add_foreign(mini.model), strength=0.0)), theirs)
    assert torch.equal(mini.sample(add_foreign(mini.apply(strength=0.0))), theirs)


def test_an_adapter_of_another_width_is_refused(mini):
    config_module = mini.pack.load("pidiff_core.adapter.config")
    adapter_module = mini.pack.load("pidiff_core.adapter.adapter")
    own = mini.pidiff_model.adapter.config
    for changes, match in (
        ({"token_width": 768}, "768 wide.*128 wide"),
        ({"sites": (("input.1.0", 320, 8),)}, r"input\.1\.0.*320.*64 channels"),
        ({"sites": (("input.99.0", 64, 2),)}, "no such site"),
    ):
        values = {**own.to_dict(), **changes}
        wrong = adapter_module.IdentityAdapter(config_module.AdapterConfig.from_dict(values))
        with pytest.raises(mini.errors.PIDiffError, match=match):
            mini.patching.apply_identity(mini.model, wrong, mini.wplus, options=mini.patching.ApplyOptions())


def test_codes_of_another_space_are_refused(mini):
    wplus_module = mini.pack.load("pidiff_core.wplus.codes")
    space = wplus_module.WPlusSpace("elsewhere", 10, 128)
    codes = wplus_module.WPlus(torch.zeros(1, 10, 128), torch.zeros(10, 128), space)
    with pytest.raises(mini.errors.PIDiffError, match=r"elsewhere.*mini-64"):
        mini.apply(codes=codes)


def test_a_patch_copies_without_its_weights(mini):
    patched = mini.apply()
    patch = patched.model_options["transformer_options"]["patches_replace"]["attn2"][("middle", 0)]
    twin = copy.deepcopy(patch)
    assert twin is not patch
    assert twin.identities[0] is patch.identities[0]
    twin.add(push, amount=1.0)
    assert not patch.callbacks
