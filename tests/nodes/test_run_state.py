"""The one object that hooks read: who goes where, what a row is computed for, and when an identity acts."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch


@pytest.fixture(scope="module")
def state(comfy, pack):
    return pack.load("nodes.unet.run_state")


@pytest.fixture(scope="module")
def identity(pack, comfy):
    applied = pack.load("nodes.unet.applied_identity")

    def make(order, *, in_row=False, start=0.0, end=1.0, sigma_range=(0.0, 1e9), **options):
        return applied.AppliedIdentity(
            sites={}, uncond_sites={}, mask=None, start_percent=start, end_percent=end, sigma_range=sigma_range,
            order=order, in_row=in_row, **options,
        )  # fmt: skip

    return make


def test_ranks_count_the_places_of_the_row_from_the_left(state, identity):
    """Apply nodes 0 and 2 stand outside the row; node 1 adds nothing but keeps its place."""
    row = (False, True, False, True, True)
    there = tuple(identity(order, in_row=row[order]) for order in (0, 2, 3, 4))
    arrangement = state.RunState(in_row=row, identities=there).arrange()
    assert [arrangement.places(one) for one in there] == [False, False, True, True]
    like = torch.zeros(1)
    second, third = (
        arrangement.mask(one, (1, 30), area=(0.0, 0.0, 1.0, 1.0), like=like, rows=None)[0] for one in there[2:]
    )
    # Three equal columns to begin with: node 3 has the middle one, node 4 the right one.
    assert (second[12:18] == 1).all()
    assert not second[:8].any()
    assert not second[22:].any()
    assert (third[22:] == 1).all()
    assert not third[:18].any()


@pytest.mark.parametrize(("row", "arranged"), [((True,), False), ((True, False), False), ((True, True), True)])
def test_one_place_alone_is_anywhere(state, identity, row, arranged):
    made = state.RunState(in_row=row, identities=(identity(0, in_row=True),)).arrange()
    assert (made is not None) == arranged


def test_a_row_in_which_nothing_acts_is_not_arranged(state):
    assert state.RunState(in_row=(True, True)).arrange() is None


def test_it_never_changes_and_copies_are_itself(state):
    made = state.RunState()
    assert copy.deepcopy(made) is made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.call = None


def test_what_the_run_knows_of_a_prompt_decides_over_its_number(state):
    conditionings = {"a": state.Conditioning(0), "b": state.Conditioning(1, (0.0, 0.5, 1.0, 1.0))}
    options = {
        "cond_or_uncond": [0, 1, 0],
        "uuids": ["b", "a", "c"],
        state.KEY: state.RunState(conditionings=conditionings),
    }
    call = state.read_call(options, [])
    assert [chunk.half for chunk in call.chunks] == [1, 0, None]
    assert [chunk.area[1] for chunk in call.chunks] == [0.5, 0.0, 0.0]
    options[state.KEY] = state.RunState()  # before the sampler starts, the host's numbers count
    assert [chunk.half for chunk in state.read_call(options, []).chunks] == [0, 1, 0]


class Counted:
    """Noise levels on a device: counts how often they are read."""

    def __init__(self, level):
        self.level, self.reads = level, 0

    def flatten(self):
        self.reads += 1
        return [self.level]


@pytest.mark.parametrize(("level", "acts"), [(1.0, False), (2.0, True), (3.0, True), (4.0, True), (5.0, False)])
def test_a_range_acts_between_its_noise_levels_and_reads_them_once(state, identity, level, acts):
    ranged = [identity(order, start=0.2, end=0.8, sigma_range=(100.0, 200.0)) for order in (0, 1)]
    sigmas = Counted(level)
    call = state.UNetCall([], sigmas=sigmas, identities=ranged, ranges=dict.fromkeys((0, 1), (2.0, 4.0)))
    assert call.acts == {0: acts, 1: acts}
    assert call.noise_level == level
    assert sigmas.reads == 1
    unseen = state.UNetCall([], sigmas=Counted(150.0), identities=ranged, ranges={})
    assert unseen.acts == {0: True, 1: True}  # a UNet called without the sampler: the schedule of the Apply node


def test_an_identity_that_always_acts_reads_no_noise_level(state, identity):
    sigmas = Counted(1.0)
    call = state.UNetCall([], sigmas=sigmas, identities=[identity(0)], ranges={})
    assert (call.acts, sigmas.reads) == ({0: True}, 0)
    assert not identity(0, skip_steps=0.2).is_always_on


@pytest.mark.parametrize(
    ("x_shape", "rows", "whole", "known"),
    [
        ((4, 4, 8, 8), None, True, True),
        ((2, 4, 8, 8), (2,), True, True),
        ((8, 4, 8, 8), None, True, False),
        ((2, 4, 8, 8), None, True, False),
        ((5, 4, 8, 8), None, True, False),
        ((4, 4, 8, 4), None, True, False),
        ((4, 4, 8, 4), None, False, True),
    ],
)
def test_rows_are_known_or_not(pack, comfy, x_shape, rows, whole, known):
    """Of a run of two latents of 8 x 8, evaluated for two prompts."""
    explains = pack.load("nodes.unet.batch_rows").explains
    assert explains(rows, x_shape, num_chunks=2, run_shape=(2, 4, 8, 8), whole=whole) == known
