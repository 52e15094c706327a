"""The identity in a model that TorchCompileModel has compiled as a whole, as it does on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.nodes.small_unets import Person, build, conditioning, latents, run_node, sample

pytestmark = pytest.mark.slow
SIZE = (12, 20)


@pytest.fixture
def compiled(comfy, pack, monkeypatch):
    """A small model, a person for it, and a compiler that only counts its graphs.

    The attention is the one that GPUs get: what the host takes on the CPU asks for the memory that is free, which
    breaks up every graph, with an identity or without.
    """
    import comfy.ldm.modules.attention as attention
    from comfy_extras.nodes_torch_compile import TorchCompileModel

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
        picture = draw(run_node(TorchCompileModel, model=patched, backend=counter))
        error = (picture - draw(patched)).abs().max() / picture.std()
        return counter.frame_count - before, float(error)

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


def test_the_plain_model_is_one_graph(compiled):
    assert compiled.graphs_of(compiled.model) == (1, 0.0)
