"""Networks that are read when they are first used, and files that are opened once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError, register_host
from pidiff_core.files.cache import shared
from pidiff_core.files.lazy import LazyNetwork
from pidiff_core.files.loading import guarded, load_pidiff
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator

ENCODER = EncoderConfig(
    image_size=32, num_styles=6, width=5, stem_channels=4, depths=(4, 4, 6, 6), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 1, 3), se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(size=32, width=6, z_dim=6, mapping_layers=1, channels=(4, 4, 4, 4))


class Thing:
    """Something that can be held."""


def test_a_network_is_read_once_and_brought_to_its_place_every_time():
    events = []

    def read():
        events.append("read")
        return nn.Linear(1, 1)

    def place(network):
        events.append("placed")
        return lambda: events.append("brought")

    lazy = LazyNetwork(read, place=place)
    assert events == []
    assert lazy.ready() is lazy.ready()
    assert events == ["read", "placed", "brought", "brought"]


def test_a_network_that_cannot_be_read_is_tried_again():
    attempts = []

    def read():
        attempts.append(1)
        if len(attempts) == 1:
            raise PIDiffError("not yet")
        return nn.Linear(1, 1)

    lazy = LazyNetwork(read)
    with pytest.raises(PIDiffError, match="not yet"):
        lazy.ready()
    assert isinstance(lazy.ready(), nn.Linear)


def test_weights_read_in_a_node_can_be_trained_through():
    with torch.inference_mode():
        network = LazyNetwork(lambda: nn.Linear(1, 1)).ready()
    assert not network.weight.is_inference()


def test_what_is_shared_lives_as_long_as_somebody_holds_it():
    first = shared("test", Thing)
    assert shared("test", Thing) is first
    assert shared("other test", Thing) is not first
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_what_no_reader_foresees_is_still_a_sentence(tmp_path):
    with pytest.raises(PIDiffError, match=r"odd\.pt is not a file that PIDiff can read \(ZeroDivisionError\)"):
        guarded(tmp_path / "odd.pt", lambda path: 1 / 0)
    torch.save({"w_proj": {}, "wplus_adapter": {1: 2}}, tmp_path / "odd.pt")
    with pytest.raises(PIDiffError, match=r"odd\.pt is not an identity adapter: some keys are not names"):
        load_pidiff(adapter=tmp_path / "odd.pt", encoder=None)


@pytest.mark.parametrize(
    "build",
    [
        lambda: AdapterConfig(sites=(SiteSpec("middle.0.0", 8, 1),), num_styles=10**9),
        lambda: AdapterConfig(sites=(SiteSpec("middle.0.0", 8, 1),), mixer_layers=10**9),
        lambda: EncoderConfig(units=(3, 4, 10**9, 3)),
        lambda: GeneratorConfig(mapping_layers=10**9),
    ],
    ids=["styles", "mixers", "units", "mapping"],
)
def test_a_configuration_cannot_keep_the_process_busy_for_ever(build):
    with pytest.raises(PIDiffError, match=r"at most|1 to 256"):
        build()


@pytest.mark.parametrize("kind", ["encoder", "generator"])
def test_the_host_can_interrupt_between_the_layers_of_a_network(kind):
    network = E4eEncoder(ENCODER) if kind == "encoder" else Generator(GENERATOR)  # of a few dozen layers each
    network.requires_grad_(False).eval()
    asked = []

    class Cancelled(Exception):
        pass

    def check():
        asked.append(None)
        if len(asked) == 12:
            raise Cancelled

    holders = [LazyNetwork(lambda: network) for _ in range(3)]  # they ask once a layer all the same
    assert all(holder.ready() is network for holder in holders)
    run, given = (
        (network, torch.zeros(1, 3, ENCODER.image_size, ENCODER.image_size))
        if kind == "encoder"
        else (network.synthesis, torch.zeros(1, GENERATOR.num_styles, GENERATOR.width))
    )
    register_host(check, Cancelled)
    try:
        with pytest.raises(Cancelled):
            run(given)
    finally:
        register_host(lambda: None)
    assert len(asked) == 12
    assert all(len(module._forward_pre_hooks) == 1 for module in network.modules())
