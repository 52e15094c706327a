"""Numbers from the API: every number input of every node refuses what its widget does not allow."""

from __future__ import annotations

import inspect
import math

import pytest


@pytest.fixture(scope="module")
def number_inputs(comfy, pack):
    """(node, input) for each number input of the pack."""
    found = []
    for node in pack.load("nodes").NODES:
        found += [(node, declared) for declared in node.define_schema().inputs if declared.io_type in ("INT", "FLOAT")]
    assert len(found) >= 20
    return found


def run(node, name, value):
    """Run the node with this value and None in its other required inputs: numbers are checked first."""
    parameters = inspect.signature(node.execute).parameters.values()
    others = {one.name: None for one in parameters if one.default is one.empty}
    numbers = {
        declared.id: declared.default
        for declared in node.define_schema().inputs
        if declared.io_type in ("INT", "FLOAT")
    }
    node.execute(**{**others, **numbers, name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda low, high: math.nan,
        lambda low, high: math.inf,
        lambda low, high: -math.inf,
        lambda low, high: low - 1,
        lambda low, high: high + 1,
        lambda low, high: None,
        lambda low, high: "1",
        lambda low, high: True,
    ],
    ids=["nan", "inf", "-inf", "below", "above", "none", "text", "truth"],
)
def test_exception_names_the_input_and_its_range(number_inputs, pack, wrong):
    error = pack.load("pidiff_core.errors").PIDiffError
    for node, declared in number_inputs:
        with pytest.raises(error, match=f"^{declared.id} should be a (whole )?number from"):
            run(node, declared.id, wrong(declared.min, declared.max))


def test_half_a_step_is_no_whole_number(number_inputs, pack):
    for node, declared in number_inputs:
        if declared.io_type == "INT":
            with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=f"^{declared.id} should be a whole"):
                run(node, declared.id, declared.min + 0.5)


def test_the_ends_of_each_range_are_taken(number_inputs, pack):
    error = pack.load("pidiff_core.errors").PIDiffError
    for node, declared in number_inputs:
        for end in (declared.min, declared.max):
            with pytest.raises(Exception) as raised:
                run(node, declared.id, end)
            text = str(raised.value) if isinstance(raised.value, error) else ""
            assert not text.startswith(f"{declared.id} should be"), (node, text)
