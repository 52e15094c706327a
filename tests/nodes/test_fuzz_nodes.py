"""Every node through ComfyUI's own validation and executor, with values that no widget gives: it works, is refused by
ComfyUI, or raises a PIDiffError. `scripts/fuzz.py --nodes` makes as many calls as one likes from the same generator."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz_nodes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def caller(comfy, pack):
    return fuzz_nodes.NodeCaller(pack, comfy.base)


def test_valid_calls_succeed(caller):
    """Otherwise every call would end at its first check, and nothing would be tested."""
    for name in sorted(caller.nodes):
        kinds = [caller.run(fuzz_nodes.valid_call(name, random.Random(number), caller)).kind for number in range(4)]
        assert "failure" not in kinds, name
        assert "success" in kinds or name == "LoadPIDiff", (name, kinds)  # which needs weights


def test_a_failure_is_seen(caller):
    class Broken:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "fail", True, ""

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def fail(self):
            raise KeyError("x")

    import nodes as host_nodes

    host_nodes.NODE_CLASS_MAPPINGS["PIDiffLoadMini"], kept = Broken, host_nodes.NODE_CLASS_MAPPINGS["PIDiffLoadMini"]
    try:
        outcome = caller.run(fuzz_nodes.Call("PIDiffLoadMini", {}, set()))
    finally:
        host_nodes.NODE_CLASS_MAPPINGS["PIDiffLoadMini"] = kept
    assert outcome.kind == "failure"
    assert outcome.failure.startswith("KeyError")


def test_odd_values_are_answered_by_a_result_or_a_sentence(caller):
    kinds = Counter()

    @settings(max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def call(rng):
        outcome = caller.run(fuzz_nodes.random_call(rng, caller))
        kinds[outcome.kind] += 1
        assert outcome.kind != "failure", outcome.failure

    call()
    assert set(kinds) == {"success", "PIDiffError", "validation"}, kinds


WRONG = {
    "PIDIFF_MODEL": "a PIDiff model",
    "PIDIFF_WPLUS": "W\\+ codes",
    "MODEL": "a MODEL",
    "VAE": "a VAE",
    "IMAGE": "an IMAGE",
    "MASK": "a MASK",
    "LATENT": "a LATENT",
    "CONDITIONING": "a CONDITIONING",
    "STRING": "a text",
    "BOOLEAN": "true or false",
    "COMBO": "(one of|a text)",
}


def test_every_input_of_every_node_names_what_it_takes(caller, pack):
    error = pack.load("pidiff_core.errors").PIDiffError
    checked = 0
    for name, node in caller.nodes.items():
        for declared in node.GET_SCHEMA().inputs:
            if declared.io_type not in WRONG:
                continue
            call = fuzz_nodes.valid_call(name, random.Random(0), caller)
            with pytest.raises(error, match=f"^{declared.id} should be {WRONG[declared.io_type]}"):
                node.execute(**{**call.inputs, declared.id: {"of another": "kind"}})
            checked += 1
    assert checked > 70


@pytest.mark.parametrize("name", ["PIDiffLocalise", "PIDiffGrid", "PIDiffTuneIdentity"])
def test_a_prompt_of_another_base_model_is_refused(caller, pack, name):
    call = fuzz_nodes.valid_call(name, random.Random(0), caller)
    call.inputs |= {
        "model": caller.good["MODEL"][0],
        "positive": [[torch.zeros(1, 77, 5), {}]],
        "wplus": caller.good["PIDIFF_WPLUS"][0],
    }
    call.inputs = {key: value for key, value in call.inputs.items() if key in _names(caller.nodes[name])}
    with pytest.raises(
        pack.load("pidiff_core.errors").PIDiffError, match="positive was encoded for another base model"
    ):
        caller.nodes[name].execute(**call.inputs)


@pytest.mark.parametrize(("name", "wire"), [("PIDiffLocalise", "latent"), ("PIDiffGrid", "latent_image")])
@pytest.mark.parametrize("shape", [(1, 16, 16, 16), (0, 4, 16, 16), (1, 4, 0, 16)])
def test_a_latent_of_another_base_model_is_refused(caller, pack, name, wire, shape):
    call = fuzz_nodes.valid_call(name, random.Random(0), caller)
    call.inputs |= {wire: {"samples": torch.ones(shape)}, "model": caller.good["MODEL"][0]}
    call.inputs["wplus"] = caller.good["PIDIFF_WPLUS"][0]
    call.inputs = {key: value for key, value in call.inputs.items() if key in _names(caller.nodes[name])}
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=r"this model takes|not empty"):
        caller.nodes[name].execute(**call.inputs)


@pytest.mark.parametrize(
    ("name", "wire", "value"),
    [
        ("PIDiffLocalise", "latent", {"samples": torch.ones(16)}),
        ("PIDiffLocalise", "image", torch.ones(1, 0, 8, 3)),
        ("ApplyIdentityAdapter", "mask", torch.ones(1, 8, 8).to(torch.float8_e4m3fn)),
    ],
)
def test_an_empty_or_odd_tensor_is_refused_by_its_input(caller, pack, name, wire, value):
    call = fuzz_nodes.valid_call(name, random.Random(0), caller)
    call.inputs |= {"model": caller.good["MODEL"][0], wire: value}
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=rf"^{wire} (should be|is empty)"):
        caller.nodes[name].execute(**call.inputs)


def test_a_picture_one_pixel_wide_is_shown(caller):
    call = fuzz_nodes.valid_call("PIDiffLikeness", random.Random(0), caller)
    call.inputs["images"] = torch.full((1, 3000, 1, 3), 0.5)
    assert caller.run(call).kind in ("success", "PIDiffError")


def _names(node):
    return {declared.id for declared in node.GET_SCHEMA().inputs}


FULL = torch.full((2, 4, 16, 16), 0.5)


@pytest.mark.parametrize(("name", "wire"), [("PIDiffLocalise", "latent"), ("PIDiffGrid", "latent_image")])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": FULL * float("inf")}, "not finite"),
        ({"samples": FULL * float("nan")}, "not finite"),
        ({"batch_index": "0, 1"}, r"batch_index of the latent should be \d+ whole numbers"),
        ({"batch_index": [0, "1"]}, "batch_index of the latent"),
        ({"batch_index": [0] * 7}, "batch_index of the latent"),
        ({"batch_index": [0, 10**9]}, "batch_index of the latent"),
        ({"noise_mask": torch.ones(1, 8, 8).to(torch.float8_e4m3fn)}, "noise_mask of the latent"),
        ({"noise_mask": torch.full((1, 8, 8), float("nan"))}, "noise_mask of the latent"),
    ],
)
def test_a_latent_that_no_sampler_can_use_is_refused(caller, pack, name, wire, wrong, message):
    call = fuzz_nodes.valid_call(name, random.Random(0), caller)
    model = caller.good["MODEL"][0]
    channels = model.model.latent_format.latent_channels
    latent = {"samples": FULL, **wrong}
    latent["samples"] = latent["samples"].repeat(1, channels // 4, 1, 1)
    call.inputs |= {wire: latent, "model": model, "wplus": caller.good["PIDIFF_WPLUS"][0]}
    call.inputs = {key: value for key, value in call.inputs.items() if key in _names(caller.nodes[name])}
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=message):
        caller.nodes[name].execute(**call.inputs)


def test_a_clip_is_no_vae(caller, pack):
    """It has the methods encode and decode too."""
    call = fuzz_nodes.valid_call("PIDiffTuneIdentity", random.Random(0), caller)
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=r"^vae should be a VAE, but it is a CLIP"):
        caller.nodes["PIDiffTuneIdentity"].execute(**call.inputs | {"vae": caller.good["CLIP"][0]})


def test_an_optional_wire_without_a_value_is_as_if_nothing_were_connected(caller):
    call = fuzz_nodes.valid_call("PIDiffMeanCodes", random.Random(0), caller)
    codes = caller.good["PIDIFF_WPLUS"][0]
    inputs = {key: codes if key.startswith("wplus") else value for key, value in call.inputs.items()} | {"weights": ""}
    node = caller.nodes["PIDiffMeanCodes"]
    expected, found = (node.execute(**inputs | {"weights": given}).result[0].codes for given in ("", None))
    assert torch.equal(expected, found)
