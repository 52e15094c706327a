"""W+ Adapter's projection and its 16 sites against its authors' code, at the full size of Stable Diffusion 1.5.

Weights and inputs are the seeds of `cases.py`; the expected numbers in data/wplus_adapter.json came out of the public
repository (the record says which classes, at which commit; `record.py` is the command that made them).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from pidiff_core.adapter.folding import add_attended, attend, fold
from pidiff_core.files.foreign.wplus_adapter import SITES, SPACE, read_wplus_adapter
from pidiff_core.wplus.codes import WPlus
from tests.parity import cases
from tests.parity.seeded import sample

pytestmark = pytest.mark.parity
RECORD = json.loads((Path(__file__).parent / "data" / "wplus_adapter.json").read_text())
TOLERANCE = 1e-4  # maximum error, relative to the largest expected value


def relative_error(values, reference):
    values, reference = torch.tensor(values), torch.tensor(reference)
    return float((values - reference).abs().max() / reference.abs().max())


@pytest.fixture(scope="module")
def adapter():
    return read_wplus_adapter(cases.wplus_adapter_file(), name="wplus_adapter.bin").adapter


@pytest.fixture(scope="module")
def tokens(adapter):
    """What each half of guidance attends to: two identities, and the all-zero code."""
    wplus = WPlus(cases.wplus_codes(), torch.zeros(18, 512), SPACE)
    return {"cond": adapter.tokens(wplus), "uncond": adapter.zero_tokens()}


@pytest.fixture(scope="module")
def folded(adapter, tokens):
    return {
        (half, strength): fold(adapter, rows, strengths=strength)
        for half, rows in tokens.items()
        for strength in (1.0, cases.SCALE)
    }


@pytest.mark.parametrize(("half", "name"), [("cond", "tokens"), ("uncond", "zero tokens")])
def test_the_projection(tokens, half, name):
    rows = tokens[half] if half == "cond" else tokens[half].expand(2, -1, -1)
    error = relative_error(sample(rows), RECORD[name])
    print(f"{name}: error {error:.1e}")
    assert error <= TOLERANCE


@pytest.mark.parametrize("half", ["cond", "uncond"])
@pytest.mark.parametrize("number", cases.WIDTHS)
def test_every_site(adapter, tokens, folded, number, half):
    expected, site = RECORD["sites"][str(number)], SITES[number // 2]
    weights = cases.text_attention(number)
    hidden, text = cases.site_inputs(number)
    query, text_output = text_attention(weights, hidden, text)

    branch, _ = adapter.branch(site)(query, text_output, tokens=tokens[half].expand(2, -1, -1))
    errors = {"twin": relative_error(sample(branch, count=64), expected[f"{half} branch"])}

    alone, added = torch.zeros_like(text_output), text_output.clone()
    for out, strength in ((alone, 1.0), (added, cases.SCALE)):
        quick = folded[half, strength][site]
        assert (quick.keys is None) == (half == "uncond")  # the zero code's tokens are one and the same: a constant
        add_attended(out, quick, attended=attend(quick, host_query=query, text_output=text_output))
    layer = F.linear(added, weights["to_out.0.weight"], weights["to_out.0.bias"])
    errors["folded"] = relative_error(sample(alone, count=64), expected[f"{half} branch"])
    errors["whole layer"] = relative_error(sample(layer, count=64), expected[f"{half} layer"])
    print(f"{number} {site} {half}: " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items()))
    assert max(errors.values()) <= TOLERANCE


def test_the_numbers_are_those_of_diffusers_processors():
    """Number by number, the processor that the reference's own loader gave these weights is the site that ours does."""
    order = [RECORD["sites"][str(number)]["processor"] for number in cases.WIDTHS]
    assert [site_of(name) for name in order] == list(SITES)


def text_attention(weights, hidden, text):
    """The host's cross-attention before `to_out`: its query and its output, heads merged."""
    q, k, v = hidden @ weights["to_q.weight"].T, text @ weights["to_k.weight"].T, text @ weights["to_v.weight"].T
    heads = (rearrange(x, "b n (h d) -> b h n d", h=cases.HEADS) for x in (q, k, v))
    return q, rearrange(F.scaled_dot_product_attention(*heads), "b h n d -> b n (h d)")


def site_of(processor):
    """down_blocks.B.attentions.A ... -> the entry of ComfyUI's input_blocks, output_blocks or middle_block.

    In the input every level has two such entries and one that halves the size, after the first convolution; in the
    output it has three.
    """
    if processor.startswith("mid_block."):
        return "middle.0.0"
    side, block, _, attention = processor.split(".")[:4]
    if side == "down_blocks":
        return f"input.{1 + 3 * int(block) + int(attention)}.0"
    return f"output.{3 * int(block) + int(attention)}.0"
