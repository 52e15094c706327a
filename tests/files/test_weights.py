"""Weights into networks, strictly: every key is used, every parameter filled, every number finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pidiff_core.errors import PIDiffError
from pidiff_core.files.weights import check_weights, load_strict, materialize, strip_prefix


def linear_state():
    return {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def test_errors_do_not_print_a_file_in_place_of_its_keys(tmp_path):
    with pytest.raises(PIDiffError) as caught:
        load_strict(nn.Linear(3, 2), {"k" * 100_000: torch.ones(1)}, name="the layer")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_network_is_filled_tensor_by_tensor_in_the_wanted_type(dtype):
    module = nn.BatchNorm1d(2, device="meta")
    state = nn.BatchNorm1d(2).state_dict() | {"weight": torch.tensor([1.0, 2.5])}
    asked = []

    def read(key):
        asked.append(key)
        return state[key]

    assert materialize(module, read, dtype=dtype, name="the layer") is module
    assert asked == list(module.state_dict())
    assert {weight.dtype for weight in module.parameters()} == {dtype}
    assert module.running_mean.dtype == dtype
    assert module.num_batches_tracked.dtype == torch.int64
    assert module.weight.tolist() == [1.0, 2.5]
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, torch.float32), (1e6, torch.float16)])
def test_weights_that_are_not_finite_are_refused_and_the_network_stays_empty(value, dtype):
    module = nn.Linear(3, 2, device="meta")
    state = linear_state() | {"bias": torch.full((2,), value)}
    with pytest.raises(PIDiffError, match="the layer are not finite: bias") as caught:
        materialize(module, state.__getitem__, dtype=dtype, name="the layer")
    assert ("choose fp32" in str(caught.value)) == (dtype == torch.float16)
    assert module.weight.is_meta


def test_shapes_without_memory_are_checked_too():
    shapes = {key: value.to("meta") for key, value in linear_state().items()}
    check_weights(nn.Linear(3, 2, device="meta"), shapes, name="the layer")
    with pytest.raises(PIDiffError, match="wrong shapes: weight"):
        check_weights(nn.Linear(4, 2, device="meta"), shapes, name="the layer")


def test_half_and_float8_become_the_wanted_type():
    state = {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2).to(torch.float8_e4m3fn)}
    module = nn.Linear(3, 2, device="meta")
    load_strict(module, state, name="the layer", dtype=torch.float32)
    assert module.weight.dtype == module.bias.dtype == torch.float32
    assert module.bias.tolist() == [1.0, 1.0]


def test_counters_may_be_of_any_type():
    module = nn.BatchNorm1d(2)
    load_strict(module, module.state_dict() | {"num_batches_tracked": torch.tensor(3.0)}, name="the layer")
    assert module.num_batches_tracked == 3


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strict_loading_fills_every_parameter(device):
    module = nn.Linear(3, 2, device=device)
    load_strict(module, linear_state(), name="the layer")
    assert torch.equal(module.weight, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bias"), "missing: bias"),
        (lambda state: state.update(extra=torch.ones(1)), "left over: extra"),
        (lambda state: state.update(weight=torch.ones(3, 2)), r"wrong shapes: weight \(3, 2\) instead of \(2, 3\)"),
        (lambda state: state.update(bias=torch.full((2,), torch.nan)), "not finite: bias"),
        (lambda state: state.update(bias="text"), "not tensors: bias"),
        (
            lambda state: state.update(bias=torch.ones(2).long()),
            "wrong types: bias torch.int64 instead of torch.float32",
        ),
        (lambda state: state.update(bias=torch.ones(2) > 0), "wrong types: bias torch.bool"),
        (lambda state: state.update({str(i): torch.ones(1) for i in range(20)}), "and 12 more"),
    ],
)
def test_strict_loading_lists_what_does_not_fit(change, message):
    module, state = nn.Linear(3, 2), linear_state()
    before = module.weight.clone()
    change(state)
    with pytest.raises(PIDiffError, match=message) as caught:
        load_strict(module, state, name="the layer")
    assert "the layer" in str(caught.value)
    assert torch.equal(module.weight, before)


def test_a_prefix_is_taken_off():
    assert list(strip_prefix({"encoder.a": torch.ones(1), "decoder.b": torch.ones(1)}, "encoder.")) == ["a"]
