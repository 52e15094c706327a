"""What does nothing costs nothing, and what runs in a step is friendly to compilers: counted, not timed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import adapter as bench_adapter
from benchmarks.trace import trace_hooks
from benchmarks.unet import Evaluation, Patches, Replay, TextAttention, random_sd15

SITES = 16


@pytest.fixture(scope="module")
def unet(comfy, pack):
    """A narrow SD 1.5 in ComfyUI, one evaluation of it, and Apply."""
    from benchmarks.peers import EmptyHook

    site_patch = pack.load("nodes.unet.attn2_patch")
    attention = site_patch.optimized_attention
    text = TextAttention.of(pack)
    model = random_sd15(device=torch.device("cpu"), dtype=torch.float32, channels=32)
    patching = pack.load("nodes.unet.apply")
    torch.manual_seed(0)
    adapter = bench_adapter.random_adapter(pack, model)
    wplus = bench_adapter.random_codes(pack.load("pidiff_core.wplus.codes"), styles=18)

    def patches(*, mask=None, **options):
        options = patching.ApplyOptions(**options)
        return Patches.on(patching.apply_identity(model, adapter, wplus, options=options, mask_bhw=mask))

    evaluate = Evaluation.random(model, size_px=64, batch=2)
    empty = EmptyHook(text)
    sites = Patches(patches().hooks)  # without our wrappers: hooks that read what an evaluation says for themselves
    replay = Replay(evaluate, sites, attention=empty)
    names = [spec.name for spec in adapter.config.sites]

    def trace(patches):
        return trace_hooks(evaluate, patches, text=text)

    yield SimpleNamespace(model=model, patches=patches, empty=empty, replay=replay, names=names, trace=trace)
    site_patch.optimized_attention = attention


def products(hook, *inputs):
    """How many matrix products a hook computes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        hook(*inputs)
    return sum(event.name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_") for event in profiler.events())


def test_sites_of_factor_zero_carry_no_patch(unet):
    off = unet.names[::2]
    left = unet.patches(site_strengths=" ".join(f"{name}=0" for name in off)).hooks
    assert len(unet.patches().hooks) == SITES
    assert {patch.name for patch in left.values()} == set(unet.names) - set(off)
    assert unet.patches(site_strengths="input=0 middle=0 output=0") == Patches()


NO_LEVEL = {"coarse": 0.0, "medium": 0.0, "fine": 0.0}


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0},
        {"levels": NO_LEVEL},
        {"start_percent": 0.5, "end_percent": 0.5},
        {"mask": torch.zeros(1, 64, 64)},
    ],
    ids=["strength", "levels", "range", "mask"],
)
def test_an_identity_that_does_nothing_is_not_there(unet, options):
    assert unet.patches(**options) == Patches()


def test_the_unconditional_half_and_steps_outside_the_range_compute_nothing(unet):
    hooks = unet.patches(end_percent=0.5).hooks
    sampling = unet.model.get_model_object("model_sampling")
    late, early = (float(sampling.percent_to_sigma(percent)) for percent in (0.9, 0.1))
    key, (q, k, v), options = unet.replay.calls[0]
    for changes, acts in (
        ({"cond_or_uncond": [0, 0]}, True),
        ({"cond_or_uncond": [1, 1]}, False),
        ({"sigmas": torch.tensor([early])}, True),
        ({"sigmas": torch.tensor([late])}, False),
    ):
        step = options | {"sigmas": torch.tensor([early])} | changes
        plain, ours = (products(hook, q, k, v, step) for hook in (unet.empty, hooks[key]))
        assert (ours > plain) == acts, changes
        assert torch.equal(hooks[key](q, k, v, step), unet.empty(q, k, v, step)) != acts


def test_masks_are_resized_once_before_the_unet_runs(unet, pack, monkeypatch):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1.0
    masked = unet.patches(mask=mask)
    identity = pack.load("nodes.unet.applied_identity")
    resize, resized = identity._resized, []
    monkeypatch.setattr(identity, "_resized", lambda *args, **kwargs: resized.append(args) or resize(*args, **kwargs))
    for counts in (unet.trace(masked) for _ in range(2)):
        assert counts["resized_maps"] == counts["conversions"] == counts["synchronisations"] == 0
    assert len(resized) == 4  # one a resolution, not one a site, and none for the second evaluation


@pytest.mark.slow
def test_the_noise_level_is_read_once_an_evaluation_and_outside_the_hooks(unet):
    always, ranged = unet.patches(), unet.patches(end_percent=0.9)
    bare = Patches(dict.fromkeys(always.hooks, unet.empty))
    reads = {name: unet.trace(patches) for name, patches in (("bare", bare), ("always", always), ("ranged", ranged))}
    assert all(counts["synchronisations"] == 0 for counts in reads.values())
    elsewhere = {name: counts["synchronisations_elsewhere"] for name, counts in reads.items()}
    assert elsewhere["always"] == elsewhere["bare"]
    assert elsewhere["ranged"] == elsewhere["bare"] + 1


@pytest.mark.parametrize("kind", ["host", "text"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_the_branch_is_one_graph_without_breaks(pack, kind, masked):
    folding = pack.load("pidiff_core.adapter.folding")
    torch.manual_seed(0)
    heads, width, tokens, pixels = 4, 32, 5, 24
    keys = (
        torch.randn(1, heads, tokens + 1, width // heads) if kind == "host" else torch.randn(1, heads * tokens, width)
    )
    site = folding.FoldedSite(kind, kind == "host", keys, torch.randn(1, heads, tokens, width // heads))
    q, text = torch.randn(2, pixels, width), torch.randn(2, pixels, width)
    mask = torch.rand(1, pixels) if masked else None

    def branch(q, text):
        out = text.clone()
        folding.add_attended(out, site, attended=folding.attend(site, host_query=q, text_output=text), mask=mask)
        return out

    torch.compiler.reset()
    compiled = torch.compile(branch, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, text), branch(q, text), rtol=1e-5, atol=1e-5)
