"""Start and end: fractions of the sampling by the schedule that is sampled, wherever in the chain it is set."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from tests.nodes.small_unets import Person, build, conditioning, latents, sample, watch

STEPS = 10


@pytest.fixture(scope="module")
def sd(comfy, pack):
    model = build("SD 1.5, one level")
    return SimpleNamespace(
        model=model, person=Person(pack, model), positive=conditioning(model, 1), negative=conditioning(model, 2),
        latent=latents(8, 12), run_state=pack.load("nodes.unet.run_state"),
    )  # fmt: skip


def draw(sd, model, *, steps=STEPS, **options):
    return sample(model, sd.positive, sd.negative, sd.latent, steps=steps, **options)


def acting_steps(sd, model, **options):
    """At which steps something is added, and the picture."""
    with watch(model) as seen:
        out = draw(sd, model, cfg=1.0, **options)
    acts = {}
    for call in seen.calls:
        acts[call.evaluation - 1] = acts.get(call.evaluation - 1, False) or bool(call.added.any())
    return [step for step, there in acts.items() if there], out


SCHEDULES = {
    "v, zsnr": lambda m: _advanced().ModelSamplingDiscrete().patch(m, "v_prediction", True)[0],
    "lcm": lambda m: _advanced().ModelSamplingDiscrete().patch(m, "lcm", False)[0],
    "EDM": lambda m: _advanced().ModelSamplingContinuousEDM().patch(m, "edm_playground_v2.5", 120.0, 0.002)[0],
}


def _advanced():
    from comfy_extras import nodes_model_advanced

    return nodes_model_advanced


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("limits", [(0.2, 1.0), (0.3, 0.7)], ids=str)
def test_a_schedule_counts_before_and_after_the_identity_alike(sd, schedule, limits):
    limits = dict(zip(("start_percent", "end_percent"), limits))
    change = SCHEDULES[schedule]
    before = draw(sd, sd.person.on(change(sd.model), **limits))
    after = draw(sd, change(sd.person.on(sd.model, **limits)))
    assert torch.equal(before, after)
    assert (before - draw(sd, change(sd.model))).abs().max() > 1e-3 * before.std()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((0.0, 1.0), range(10)), ((0.25, 1.0), range(3, 10)), ((0.0, 0.45), range(5)), ((0.25, 0.65), range(3, 6))],
    ids=str,
)
def test_the_steps_of_a_range(sd, limits, expected):
    """The normal schedule divides the timesteps evenly: step i of ten is at percent i / 9."""
    patched = sd.person.on(sd.model, start_percent=limits[0], end_percent=limits[1])
    steps, _ = acting_steps(sd, patched)
    assert steps == list(expected)


def test_ranges_that_follow_each_other_are_a_strength_over_the_steps(sd):
    """As docs/presets.md says: chained nodes with the codes of one person, each for a part of the sampling."""

    def chained(first, second):
        begun = sd.person.on(sd.model, strength=first, end_percent=0.5)
        return draw(sd, sd.person.on(begun, strength=second, start_percent=0.5))

    assert torch.equal(chained(1.0, 1.0), draw(sd, sd.person.on(sd.model)))
    assert torch.equal(chained(0.0, 1.0), draw(sd, sd.person.on(sd.model, start_percent=0.5)))
    falling, rising = chained(1.0, 0.3), chained(0.3, 1.0)
    assert (falling - rising).abs().max() > 1e-3 * falling.std()


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 30])
def test_w_plus_adapter_begins_at_the_step_at_which_its_authors_do(sd, steps):
    """Their loop draws without the identity while i <= 0.2 * steps."""
    acting, _ = acting_steps(sd, sd.person.on(sd.model, preset="W+ Adapter"), steps=steps)
    assert acting == [i for i in range(steps) if not i <= 0.2 * steps]


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(("sampler", "scheduler"), [("lcm", "simple"), ("euler", "sgm_uniform")])
def test_few_steps_acts_in_every_step(sd, steps, sampler, scheduler, caplog):
    """As LCM, Lightning, Turbo and DMD2 are sampled: few steps at CFG 1."""
    caplog.set_level(logging.WARNING, logger="PIDiff")
    patched = sd.person.on(sd.model, preset="few steps")
    acting, _ = acting_steps(sd, patched, steps=steps, sampler=sampler, scheduler=scheduler)
    assert acting == list(range(steps))
    assert not caplog.records


@pytest.mark.parametrize("steps", [1, 2])
def test_a_range_without_a_step_is_warned_of(sd, steps, caplog):
    sd.run_state.warn_once.cache_clear()
    caplog.set_level(logging.WARNING, logger="PIDiff")
    patched = sd.person.on(sd.model, start_percent=0.6)
    drawn = draw(sd, patched, steps=steps)
    assert torch.equal(drawn, draw(sd, sd.model, steps=steps)) == (steps == 1)
    assert [("no identity in this picture" in record.message) for record in caplog.records] == [True] * (steps == 1)
