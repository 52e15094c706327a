"""The adapter's benchmark on a UNet of a tenth of the width: what it compares is equal, what it counts is there."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch

from benchmarks import adapter
from benchmarks.trace import held_bytes, trace_hooks
from benchmarks.unet import Evaluation, Patches, TextAttention, random_sd15

CPU = torch.device("cpu")
NOTHING = {"synchronisations": 0, "conversions": 0, "resized_maps": 0, "token_products": 0}


def inside(counts):
    """What was counted inside the hooks."""
    return {name: counts[name] for name in NOTHING}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return argparse.Namespace(
        size=64, batch=4, device="cpu", dtype="fp32", rounds=1, repeats=2, minutes=6.0, threads=0, channels=32,
        trace=tmp_path_factory.mktemp("trace") / "trace.json",
    )  # fmt: skip


@pytest.fixture(scope="module")
def site_patch(comfy, pack):
    """Our hooks' module, left as it was found."""
    module = pack.load("nodes.unet.attn2_patch")
    attention = module.optimized_attention
    yield module
    module.optimized_attention = attention


@pytest.fixture(scope="module")
def found(site_patch, pack, options):
    return adapter.measure(pack, options)


@pytest.fixture(scope="module")
def text(site_patch, pack):
    return TextAttention.of(pack)


@pytest.fixture(scope="module")
def step(text, pack):
    """(an evaluation of the UNet, patches by name)"""
    model = random_sd15(device=CPU, dtype=torch.float32, channels=32)
    return Evaluation.random(model, size_px=64, batch=2), adapter.configurations(pack, model, text=text, rows=1)


def test_ours_and_the_peers_arithmetic_agree(found):
    assert 0 < found["agreement"]["wplus"] < adapter.TOLERANCE
    assert 0 < found["agreement"]["ipa4"] < adapter.TOLERANCE


def test_the_identity_weighs_in_what_is_compared(step):
    evaluate, kinds = step
    plain = evaluate(kinds["empty"])
    assert torch.equal(plain, evaluate(Patches()))
    for name in ("wplus4", "native4", "native18", "ipa16"):
        assert adapter.relative_error({"": evaluate(kinds[name])}, {"": plain}) > 1e-3


def test_every_kind_is_timed_and_the_report_ends_in_one_json_line(found, options, capsys):
    assert adapter.report(dict(found), options) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    asked = {"inside_vs_wplus", "inside_vs_ipa4", "native18_vs_ipa16", "step_ratio_4", "step_ratio_18", "device_mb"}
    assert asked <= set(summary)
    assert all(summary[name] > 0 for name in asked)
    assert summary["step_ratio_4"] > 1
    assert summary["inside_ms"]["empty"] < summary["inside_ms"]["native18"]
    assert options.trace.stat().st_size > 10_000


def test_outputs_that_differ_end_the_run_with_an_error(found, options, capsys):
    wrong = found | {"agreement": {"wplus": 1e-3, "ipa4": 0.0}}
    assert adapter.report(wrong, options) == 1
    assert "differ" in capsys.readouterr().out


@pytest.mark.slow
def test_a_step_with_ours_projects_no_token_and_never_waits(step, text):
    evaluate, kinds = step
    for name in adapter.OURS:
        evaluate(kinds[name])
        counts = trace_hooks(evaluate, kinds[name], text=text)
        assert counts["hooks"] == 16
        assert inside(counts) == NOTHING, name


@pytest.mark.slow
def test_the_counters_see_what_the_peers_do(step, text):
    evaluate, kinds = step
    published, ipadapter = (trace_hooks(evaluate, kinds[name], text=text) for name in ("wplus_published", "ipa4"))
    assert ipadapter["synchronisations"] == 16  # a noise level a hook
    assert ipadapter["token_products"] >= 16 * 4  # keys and values of both halves
    assert published["token_products"] >= 16 * 2
    assert inside(trace_hooks(evaluate, kinds["empty"], text=text)) == NOTHING


def test_what_is_held_are_the_folded_sites_and_no_weights(step, pack):
    evaluate, kinds = step
    evaluate(kinds["wplus4"])
    folding = pack.load("pidiff_core.adapter.folding")
    identity = next(iter(kinds["wplus4"].hooks.values())).identities[0]
    sites = [site for half in identity._halves.values() for site in half.values()]
    assert all(isinstance(site, folding.FoldedSite) for site in sites)
    assert held_bytes(kinds["wplus4"], CPU) == sum(site.num_bytes for site in sites)
    assert held_bytes(kinds["ipa4"], CPU) > 20 * held_bytes(kinds["wplus4"], CPU)
    assert held_bytes(kinds["empty"], CPU) == 0
    assert held_bytes(kinds["wplus4"], torch.device("meta")) == 0


def run(root, *arguments):
    command = [sys.executable, str(root / "scripts" / "bench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_lists_the_benchmarks(root):
    done = run(root, "--help")
    assert done.returncode == 0
    assert "adapter" in done.stdout
    assert "mini" in done.stdout


@pytest.mark.slow
def test_a_benchmarks_own_options_reach_it(root):
    done = run(root, "adapter", "--batch", "3")
    assert done.returncode == 2
    assert "even number of rows" in done.stderr
