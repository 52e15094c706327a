"""What ApplyIdentityAdapter offers beyond a strength: presets, single sites, the unconditional half, people, places."""

from __future__ import annotations

import dataclasses

import pytest
import torch


def sites_of(model):
    """Site name -> identities there."""
    there = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    return {patch.name: patch.identities for patch in there.values()}


def test_the_first_preset_is_the_node_without_presets_bit_for_bit(mini):
    assert torch.equal(mini.sample(mini.apply(preset="portrait")), mini.sample(mini.apply()))


# By preset: the levels' factors, the sites' (input, middle, output, by depth), and the first of four steps.
BY_HAND = {
    "likeness first": ((1.0, 1.3, 1.0), (1.4, 1.4, 1.4, 1.4, 1.4), 0),
    "prompt first": ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5, 0.65, 0.65), 1),
    "style transfer": ((0.0, 0.0, 1.5), (0.0, 0.0, 0.0, 0.5, 1.0), 1),
    "composition kept": ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.5, 1.2), 1),
    "few steps": ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5, 1.5, 1.5), 0),
    "W+ Adapter": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0, 1.0), 1),
}
# Of mini's sites: input 1, 3, 5 from shallow to deep, output 0 ... 5 from deep to shallow.
DEEP = {"input.3.0", "input.5.0", "output.0.0", "output.1.0", "output.2.0"}


def place_of(site):
    block = site.split(".")[0]
    return {"input": 0, "middle": 2, "output": 3}[block] + (
        0 if block == "middle" else (site in DEEP) if block == "input" else (site not in DEEP)
    )


@pytest.mark.parametrize("preset", BY_HAND)
def test_a_preset_adds_at_each_site_what_its_table_says(mini, preset):
    """The user's own strength and levels are multiplied in."""
    levels, sites, first = BY_HAND[preset]
    own = {"coarse": 0.5, "medium": 0.7, "fine": 0.9}
    calls = mini.seen(mini.apply(codes=mini.wplus.select(0), preset=preset, strength=0.8, **own), steps=4).calls
    tokens = torch.empty(10)
    tokens[:2], tokens[2:4], tokens[4:] = (factor * mine * 0.8 for factor, mine in zip(levels, own.values()))
    for call in calls:
        acts = call.evaluation > first
        wanted = mini.expected(call, factors=tokens * sites[place_of(call.site)] * acts)
        torch.testing.assert_close(call.added, wanted, rtol=1e-4, atol=1e-5)
    assert any(call.added.any() for call in calls)


def test_sites_of_no_strength_carry_no_patch_at_all(mini):
    every = sites_of(mini.apply())
    assert len(every) == len(mini.pidiff_model.adapter.config.sites)
    assert set(every) - set(sites_of(mini.apply(site_strengths="middle=0 output.3=0"))) == {"middle.0.0", "output.3.0"}
    assert sites_of(mini.apply(site_strengths="input=0 middle=0 output=0")) == {}


def test_all_sites_at_zero_is_the_vanilla_picture_bit_for_bit(mini):
    assert torch.equal(mini.sample(mini.apply(site_strengths="input=0 middle=0 output=0")), mini.vanilla)


def test_a_factor_of_all_sites_is_a_strength(mini):
    by_sites = mini.sample(mini.apply(site_strengths="input=0.5, middle=0.5, output=0.5"))
    torch.testing.assert_close(by_sites, mini.sample(mini.apply(strength=0.5)), rtol=1e-4, atol=1e-4)


def test_a_preset_narrows_the_users_range_and_never_widens_it(mini):
    def drawn(**options):
        return mini.sample(mini.apply(**options), steps=4)

    assert torch.equal(drawn(preset="W+ Adapter", start_percent=0.6), drawn(start_percent=0.6))
    assert torch.equal(drawn(preset="W+ Adapter"), drawn(start_percent=0.2))


def test_exception_a_site_that_is_not_there(mini):
    with pytest.raises(mini.errors.PIDiffError, match=r"output\.11.*output\.5\.0"):
        mini.apply(site_strengths="output.11=0.5")


def test_the_unconditional_half_gets_what_is_asked_for(mini):
    codes = mini.wplus.select(0)
    auto, nothing = (mini.sample(mini.apply(codes=codes, unconditional=choice)) for choice in ("auto", "nothing"))
    assert torch.equal(auto, nothing)  # what a PIDiff adapter was trained for
    zero = mini.pidiff_model.adapter.zero_tokens()
    for call in mini.seen(mini.apply(codes=codes, unconditional="average person")).calls:
        wanted = mini.expected(call) + mini.expected(call, tokens=zero, half=1)
        torch.testing.assert_close(call.added, wanted, rtol=1e-4, atol=1e-5)
    # Without guidance there is no unconditional half, and nothing to differ.
    lone = [mini.sample(mini.apply(unconditional=choice), cfg=1.0) for choice in ("nothing", "average person")]
    assert torch.equal(*lone)


def test_photos_of_one_person_are_averaged(mini):
    codes = torch.cat([mini.wplus.codes, mini.wplus.codes.flip(0)])
    four = mini.wplus.with_codes(codes)
    mean = mini.wplus.with_codes(mini.wplus.codes.mean(dim=0, keepdim=True))
    by_photos = mini.sample(mini.apply(codes=four, photos_per_person=2), batch=2)
    torch.testing.assert_close(by_photos, mini.sample(mini.apply(codes=mean), batch=2), rtol=1e-4, atol=1e-4)


def test_exception_photos_that_make_no_whole_people(mini):
    with pytest.raises(mini.errors.PIDiffError, match="2 codes cannot be split into groups of 3 photos"):
        mini.apply(photos_per_person=3)


def test_a_photo_without_a_face_draws_nobody_in_its_row(mini):
    passed = dataclasses.replace(mini.wplus, present=(True, False))
    out = mini.sample(mini.apply(codes=passed), batch=2)
    plain, both = mini.sample(mini.model, batch=2), mini.sample(mini.apply(), batch=2)
    torch.testing.assert_close(out[1], plain[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[0], both[0], rtol=1e-5, atol=1e-5)
    nobody = dataclasses.replace(mini.wplus, present=(False, False))
    for unconditional in ("auto", "average person"):
        assert torch.equal(mini.sample(mini.apply(codes=nobody, unconditional=unconditional)), mini.vanilla)


def test_of_photos_of_one_person_those_without_a_face_do_not_count(mini):
    passed = dataclasses.replace(mini.wplus, present=(True, False))
    out = mini.sample(mini.apply(codes=passed, photos_per_person=2))
    torch.testing.assert_close(out, mini.sample(mini.apply(codes=mini.wplus.select(0))), rtol=1e-5, atol=1e-5)


def chain(mini, **options):
    first = mini.apply(codes=mini.wplus.select(0), **options)
    return mini.apply(first, codes=mini.wplus.select(1), **options)


def test_one_person_alone_is_left_to_right_what_it_is_anywhere(mini):
    alone = {place: mini.apply(codes=mini.wplus.select(0), place=place) for place in ("anywhere", "left to right")}
    assert torch.equal(*(mini.sample(patched, size=(16, 32)) for patched in alone.values()))


def test_left_to_right_gives_the_halves_of_one_evaluation_to_the_two(mini):
    """At the first evaluation the shares are nearly equal columns: far from the border, each half is its person's."""
    from comfy.samplers import CFGGuider, Sampler

    class OneStep(Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest, **named):
            return model_wrap(noise * 5.0, torch.tensor([5.0]), **extra_args)

    def evaluate(patched):
        guider = CFGGuider(patched)
        guider.inner_set_conds({"positive": mini.text})
        noise = torch.randn(1, mini.vanilla.shape[1], 16, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return guider.sample(noise, torch.zeros_like(noise), OneStep(), torch.tensor([5.0, 0.0]))

    beside, anywhere = evaluate(chain(mini, place="left to right")), evaluate(chain(mini))
    alone = [evaluate(mini.apply(codes=mini.wplus.select(who))) for who in (0, 1)]

    def apart(out, reference, columns):
        return float((out - reference)[..., columns].abs().mean())

    for who, columns in ((0, slice(0, 16)), (1, slice(48, 64))):
        assert apart(beside, alone[who], columns) < 0.5 * apart(anywhere, alone[who], columns)


def test_places_are_forgotten_after_a_run(mini):
    patched = chain(mini, place="left to right")
    first = mini.sample(patched, size=(16, 32))
    assert torch.equal(mini.sample(patched, size=(16, 32)), first)
    assert not torch.equal(mini.sample(chain(mini), size=(16, 32)), first)


def test_a_run_warns_of_two_people_and_one_face(mini, caplog):
    """128 px of one person, and a picture with two halves and a prompt for each."""
    from nodes import ConditioningCombine, ConditioningSetArea

    halves = [ConditioningSetArea().append(mini.text, 128, 128, left, 0, 1.0)[0] for left in (0, 128)]
    two = ConditioningCombine().combine(*halves)[0]
    patched = chain(mini, place="left to right")
    mini.sample(patched, size=(16, 32), positive=two)
    assert "fewer faces" not in caplog.text
    mini.sample(patched)
    assert "2 people, but fewer faces side by side (picture 0)" in caplog.text
    assert caplog.text.count("fewer faces") == 1
    mini.sample(patched)
    assert caplog.text.count("fewer faces") == 2, "it is said of every run, not once a process"


def test_a_mask_decides_over_a_place(mini):
    half = torch.zeros(1, 16, 32)
    half[..., :16] = 1.0
    masked = mini.apply(codes=mini.wplus.select(0), mask=half)
    both = mini.apply(codes=mini.wplus.select(0), mask=half, place="left to right")
    other = {"codes": mini.wplus.select(1), "place": "left to right"}
    assert torch.equal(mini.sample(mini.apply(masked, **other)), mini.sample(mini.apply(both, **other)))


def test_a_person_of_no_strength_keeps_the_place_in_the_row(mini):
    second = {"codes": mini.wplus.select(1), "place": "left to right"}
    beside_nobody = mini.sample(mini.apply(mini.apply(place="left to right", strength=0.0), **second), size=(16, 32))
    assert not torch.equal(beside_nobody, mini.sample(mini.apply(**second), size=(16, 32)))
