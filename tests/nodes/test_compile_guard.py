"""The identity in a model that TorchCompileModel has compiled as a whole, as it does on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.nodes.small_unets import Person, build, conditioning, latents, sample

SIZE = (12, 20)


def forget_options(guards):
    """What TorchCompileModel of newer hosts hands to torch.compile: changed transformer_options make no new graph."""
    return [("transformer_options" not in guard.name) for guard in guards]


@pytest.fixture(params=[{}, {"guard_filter_fn": forget_options}], ids=["", "newer hosts"])
def compiled(comfy, pack, monkeypatch, request):
    """A small model, a person for it, and a compiler that only counts its graphs.

    The attention is the one that GPUs get: what the host takes on the CPU asks for the memory that is free, which
    breaks up every graph, with an identity or without.
    """
    import comfy.ldm.modules.attention as attention
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    for module in (attention, pack.load("nodes.unet.attn2_patch")):
        monkeypatch.setattr(module, "optimized_attention", attention.attention_pytorch)
    torch.compiler.reset()
    model = build("SD 1.5, one level")
    positive, negative = conditioning(model, 1), conditioning(model, 2)
    counter = CompileCounter()

    def draw(patched, *, steps=4):
        return sample(patched, positive, negative, latents(*SIZE), steps=steps)

    def graphs_of(patched):
        """Draw it compiled: how many graphs that took, and how far the picture is from the uncompiled one."""
        before = counter.frame_count
        clone = patched.clone()
        set_torch_compile_wrapper(model=clone, backend=counter, options=dict(request.param))  # torch takes things out
        picture = draw(clone)
        error = (picture - draw(patched)).abs().max() / picture.std()
        return counter.frame_count - before, float(error)

    with torch._dynamo.config.patch(recompile_limit=32):  # beyond it nothing is compiled any more
        yield SimpleNamespace(model=model, person=Person(pack, model), graphs_of=graphs_of)
    torch.compiler.reset()


def half_masked(side):
    mask = torch.zeros(1, *SIZE)
    mask[..., slice(None, 10) if side == "left" else slice(10, None)] = 1.0
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["host", "text"])
def test_a_person_is_part_of_the_one_graph_and_another_one_too(compiled, pack, kind):
    """Neither breaks nor a second graph from the second evaluation on; other people, strengths and masks are inputs."""
    first, second = (Person(pack, compiled.model, query=kind) for _ in range(2))
    graphs, error = compiled.graphs_of(first.on(compiled.model, mask=half_masked("left")))
    assert (graphs, error) == (1, pytest.approx(0.0, abs=1e-4))
    for another in (
        first.on(compiled.model, mask=half_masked("right"), strength=0.5),
        second.on(compiled.model, mask=half_masked("left")),
    ):
        graphs, error = compiled.graphs_of(another)
        assert (graphs, error) == (0, pytest.approx(0.0, abs=1e-4))


@pytest.mark.slow
def test_a_range_makes_one_more_graph_and_no_step_another(compiled):
    """What acts, and what does not: the noise level itself is none of the graph's business."""
    ranged = compiled.person.on(compiled.model, start_percent=0.3, end_percent=0.8)
    assert compiled.graphs_of(ranged)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [{"guard_filter_fn": forget_options}], ids=["newer hosts"], indirect=True)
def test_no_graph_serves_a_model_that_it_was_not_made_for(compiled, pack):
    """Whoever comes, goes, changes sides or is changed: each picture is the uncompiled one."""
    model, person = compiled.model, compiled.person
    guest = Person(pack, model, query="text")
    row = {"arrangement": "left to right"}
    assert compiled.graphs_of(model) == (1, 0.0)
    for patched in (
        person.on(model),
        model,
        person.on(model, start_percent=0.3, end_percent=0.8),
        guest.on(model, unconditional="average person"),
        guest.on(person.on(model)),
        person.on(model, site_strengths=" ".join(f"{name}=0" for name in list(person.found)[::2])),
        guest.on(person.on(model, **row), **row),
        person.on(model, mask=half_masked("left")),
        person.on(model),
    ):
        assert compiled.graphs_of(patched)[1] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
def test_a_model_compiled_in_pieces_runs_uncompiled_while_it_has_an_identity(comfy, pack, caplog):
    """With the host's attention for CPUs, which breaks up every graph: each picture is the uncompiled one."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch.compiler.reset()
    pack.load("nodes.unet.run_state").warn_once.cache_clear()
    model = build("SD 1.5, one level")
    positive, negative = conditioning(model, 1), conditioning(model, 2)
    first, second = Person(pack, model), Person(pack, model, query="text")
    counter = CompileCounter()
    for patched in (model, first.on(model), second.on(first.on(model)), model, first.on(model)):
        compiled = patched.clone()
        set_torch_compile_wrapper(model=compiled, backend=counter, options={"guard_filter_fn": forget_options})
        pictures = [sample(one, positive, negative, latents(*SIZE), steps=2) for one in (compiled, patched)]
        torch.testing.assert_close(pictures[0], pictures[1], atol=1e-4, rtol=0)
    assert counter.frame_count > 1
    ours = [record.message for record in caplog.records if record.name == "PIDiff"]
    assert [("in pieces" in message) for message in ours] == [True]
    torch.compiler.reset()


def test_a_guard_names_what_compiled_code_depends_on(pack, comfy, caplog):
    """Without compiling anything: the argument's name changes with what the code depends on, and with nothing else."""
    state, applied = pack.load("nodes.unet.run_state"), pack.load("nodes.unet.applied_identity")

    def identity(order, *, start=0.0, sigma_range=(0.0, 1e9)):
        return applied.AppliedIdentity(
            sites={}, uncond_sites={}, mask=None, start_percent=start, end_percent=1.0, sigma_range=sigma_range,
            order=order,
        )  # fmt: skip

    guard = pack.load("nodes.unet.compile_guard").guard
    from comfy.patcher_extension import WrappersMP

    compiled = {"wrappers": {WrappersMP.APPLY_MODEL: {"torch.compile": [object()]}}}

    def names(identities, level, *, options=compiled, **changes):
        call = state.UNetCall([state.Conditioning(0)], sigmas=torch.tensor([level]), identities=identities, ranges={})
        named: dict[str, bool] = {}
        there = {**options, state.KEY: state.RunState(identities=tuple(identities), call=call, **changes)}
        guard(SimpleNamespace(diffusion_model=torch.nn.Identity()), there, named)
        return named

    ranged = [identity(0, start=0.2, sigma_range=(0.0, 5.0))]
    assert len(names(ranged, 1.0)) == 1
    assert names(ranged, 1.0) == names(ranged, 2.0)  # a noise level is no reason for new code
    assert names(ranged, 1.0) != names(ranged, 6.0)  # an identity that acts no longer is
    assert names(ranged, 1.0) != names([*ranged, identity(1)], 1.0)
    assert names(ranged, 1.0, options={}) == {}
    # A callback of another pack at one of our sites, which code compiled without it would not ask.
    state.warn_once.cache_clear()
    caplog.clear()
    patch = pack.load("nodes.unet.attn2_patch").SitePatch("input.1.0", ranged, inner=None)
    shared = {**compiled, "patches_replace": {"attn2": {("input", 1): patch}}}
    alone = names(ranged, 1.0, options=shared, keys=(("input", 1),))
    patch.add(lambda out, *_, **__: out, sigma_start=2.0, sigma_end=0.0)
    heard, unheard = (names(ranged, level, options=shared, keys=(("input", 1),)) for level in (1.0, 3.0))
    assert len({*alone, *heard, *unheard}) == 3
    assert [("shares cross-attentions with PIDiff" in record.message) for record in caplog.records] == [True]
