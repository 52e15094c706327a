"""The identity in a model that TorchCompileModel has compiled as a whole, as it does on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.nodes.small_unets import Person, build, conditioning, latents, sample

pytestmark = pytest.mark.slow
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

    for module in (attention, pack.load("nodes.site_patch")):
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


def test_a_range_makes_one_more_graph_and_no_step_another(compiled):
    """What acts, and what does not: the noise level itself is none of the graph's business."""
    ranged = compiled.person.on(compiled.model, start_percent=0.3, end_percent=0.8)
    assert compiled.graphs_of(ranged)[0] == 2


@pytest.mark.parametrize("compiled", [{"guard_filter_fn": forget_options}], ids=["newer hosts"], indirect=True)
def test_no_graph_serves_a_model_that_it_was_not_made_for(compiled, pack):
    """Whoever comes, goes, changes sides or is changed: each picture is the uncompiled one."""
    model, person = compiled.model, compiled.person
    guest = Person(pack, model, query="text")
    assert compiled.graphs_of(model) == (1, 0.0)
    for patched in (
        person.on(model),
        model,
        person.on(model, start_percent=0.3, end_percent=0.8),
        guest.on(model, uncond_average=True),
        guest.on(person.on(model)),
        person.on(model, sites=dict.fromkeys(list(person.found)[::2], 0.0)),
        guest.on(person.on(model, beside=True), beside=True),
        person.on(model, mask=half_masked("left")),
        person.on(model),
    ):
        assert compiled.graphs_of(patched)[1] == pytest.approx(0.0, abs=1e-4)
