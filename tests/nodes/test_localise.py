"""PIDiffLocalise: the identity's map of a finished picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from drawn_world.data import World
from drawn_world.render import render
from tests.nodes.small_unets import watch


@pytest.fixture(scope="module")
def localise(mini):
    def run(patched, latent=None, **options):
        latent = {"samples": mini.vanilla} if latent is None else latent
        options = {"steps": 2, "seed": 1, **options}
        with torch.inference_mode():
            return mini.pack.load("nodes").Localise.execute(patched, mini.text, latent, **options).result

    return run


def test_cardinality_masks_overlays_and_steps(mini, localise):
    latent = {"samples": torch.zeros(3, 4, 16, 24)}
    mask, overlay, steps = localise(mini.apply(), latent, steps=4)
    assert mask.shape == (3, 128, 192)
    assert overlay.shape == (3, 128, 192, 3)
    assert steps.shape == (12, 128, 192, 3)
    for out in (mask, overlay, steps):
        assert 0.0 <= out.min() <= out.max() <= 1.0


def test_the_mask_has_the_size_of_the_picture_and_lies_on_it(mini, localise):
    image = torch.rand(1, 100, 90, 3)
    mask, overlay, _ = localise(mini.apply(), image=image)
    assert mask.shape == (1, 100, 90)
    darkest = mask[0] < 0.01
    assert (overlay[0] - image[0])[darkest].abs().max() < 0.02
    assert (overlay[0] - image[0])[mask[0] > 0.9].abs().mean() > 0.1


def test_the_map_finds_the_head_of_a_drawn_person(mini, localise):
    """The embedded adapter was trained to localise: on a rendered picture, inside the head it is far above the rest."""
    world = World(seed=3_000_000, people=2, scenes=1)
    vae = mini.pack.load("nodes").LoadMini.execute().result[2]
    for number in range(2):
        drawn = render(world.person(number), world.scene(number, medium="photo"))
        image = torch.from_numpy(drawn.image.copy()).float()[None] / 255
        head = torch.from_numpy(drawn.face_mask.copy()).float()
        head = head / head.max()
        mask, _, _ = localise(mini.apply(), {"samples": vae.encode(image)}, image=image, steps=4)
        inside, outside = mask[0][head > 0.5].mean(), mask[0][head < 0.5].mean()
        assert inside > 2.0 * outside, (number, float(inside), float(outside))


def test_the_same_seed_gives_the_same_map_and_the_model_stays_as_it_was(mini, localise):
    patched = mini.apply()
    before = mini.sample(patched)
    first, second, other = (localise(patched, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(mini.sample(patched), before)


def test_each_person_of_a_chain_has_a_map_and_minus_one_is_all(mini, localise):
    half = torch.zeros(1, 16, 16)
    half[..., :8] = 1.0
    first = mini.apply(codes=mini.wplus.select(0), mask=half)
    both = mini.apply(first, codes=mini.wplus.select(1), mask=1.0 - half)
    left, right, together = (localise(both, person=who, stretch=False)[0] for who in (0, 1, -1))
    assert left[..., 90:].mean() < 0.2 * left[..., :38].mean()
    assert right[..., :38].mean() < 0.2 * right[..., 90:].mean()
    torch.testing.assert_close(together, left + right, atol=0.02, rtol=0)


def test_levels_below_the_start_of_an_identity_are_empty(mini, localise):
    _, _, steps = localise(mini.apply(start_percent=0.9), steps=4, stretch=False)
    nothing = mini.pack.load("pidiff_core.adapter.overlay").heat(torch.zeros(1, 1, 1))
    assert torch.equal(steps[:3], nothing.expand(3, 128, 128, 3))
    assert not torch.equal(steps[3:], nothing.expand(1, 128, 128, 3))


def test_exception_nobody_there_and_a_person_too_many(mini, localise):
    with pytest.raises(mini.errors.PIDiffError, match="no identity applied"):
        localise(mini.model)
    with pytest.raises(mini.errors.PIDiffError, match=r"Person 3.*has 1"):
        localise(mini.apply(), person=3)
    with pytest.raises(mini.errors.PIDiffError, match="2 pictures were given for 1 latents"):
        localise(mini.apply(), image=torch.zeros(2, 128, 128, 3))
    with pytest.raises(mini.errors.PIDiffError, match="latent"):
        localise(mini.apply(), {"samples": torch.zeros(1, 4, 1, 16, 16)})


def test_a_person_of_no_strength_keeps_the_number_and_has_an_empty_map(mini, localise):
    both = mini.apply(mini.apply(strength=0.0), codes=mini.wplus.select(1))
    assert localise(both, person=0, stretch=False)[0].abs().max() == 0.0
    assert torch.equal(localise(both, person=1)[0], localise(mini.apply(codes=mini.wplus.select(1)))[0])


def test_maps_are_those_of_the_prompt_also_if_the_other_half_has_a_person(mini):
    """A sampler that evaluates both halves, with an average person in the unconditional one, whose prediction is left
    out, so that each step sees the same latent as without that half."""
    state = mini.pack.load("nodes.unet.run_state")

    def recorded(unconditional, *, both_halves):
        recorder = state.MapRecorder([0], (16, 16))
        patched = mini.apply(unconditional=unconditional)
        options = patched.model_options["transformer_options"]
        options[state.KEY] = replace(state.RunState.of(options), recorder=recorder)
        patched.set_model_sampler_cfg_function(
            lambda args: args["input"] - args["cond_denoised"], disable_cfg1_optimization=both_halves
        )
        with watch(patched) as calls:
            mini.sample(patched, cfg=1.0)
        halves = {len(call.q) for call in calls.calls}
        assert halves == {2 if both_halves else 1}
        (mean,) = recorder.means()
        return mean

    alone = recorded("nothing", both_halves=False)
    assert alone.std() > 0.01
    torch.testing.assert_close(recorded("average person", both_halves=True), alone, atol=1e-4, rtol=0)
