"""The identity beside ComfyUI's own nodes, in ComfyUI's own sampler: in both orders, at strength 0, and site by site.

"Independent" is exact at a site: what the identity adds before `to_out` is a function of that site's query (and text
output) alone. Whatever another node does to a UNet, it may change the query that arrives, but not this function; and at
the sites that lie before the place where the other node acts, not even the query. So with any node beside it the
identity must add what the readable twin in attention.py adds for the query that really arrived, to the rows of the
positive prompt and to no other; and before that place, bit for bit what it adds alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.nodes.small_unets import (
    Person,
    Watch,
    build,
    conditioning,
    latents,
    random_lora,
    run_node,
    sample,
    watch,
)

SIZE = (12, 20)
SMALL = "SD 1.5, one level"  # for nodes that take seconds over every weight


@pytest.fixture(scope="module")
def bench(comfy, pack):
    """By kind of UNet: a model, another of its kind, somebody to draw, and the plain picture with and without them."""

    @functools.cache
    def make(kind: str = "SD 1.5") -> SimpleNamespace:
        model = build(kind)
        person = Person(pack, model)
        positive, negative = conditioning(model, 1), conditioning(model, 2)

        def draw(patched: Any, *, steps: int = 1) -> torch.Tensor:
            return sample(patched, positive, negative, latents(*SIZE), steps=steps)

        def seen(patched: Any, *, steps: int = 1) -> Watch:
            with watch(patched) as calls:
                draw(patched, steps=steps)
            return calls

        return SimpleNamespace(
            model=model, other=build(kind, seed=5), person=person, positive=positive, draw=draw, seen=seen,
            vanilla=draw(model), with_person=draw(person.on(model)), alone=seen(person.on(model)).first(),
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def sd(bench):
    return bench()


def downscale(sd, model):
    """Kohya's deep shrink: from input block 4 on, and back in the output blocks."""
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    return run_node(
        PatchModelAddDownscale, model=model, block_number=3, downscale_factor=2.0, start_percent=0.0, end_percent=1.0,
        downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
    )  # fmt: skip


def free_u(sd, model):
    """Scales features and skip connections at the entry of output blocks."""
    from comfy_extras.nodes_freelunch import FreeU_V2

    return run_node(FreeU_V2, model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)


def hyper_tile(sd, model):
    """Cuts the self-attention of the first two resolutions into tiles, and joins it before the cross-attention."""
    from comfy_extras.nodes_hypertile import HyperTile

    return run_node(HyperTile, model=model, tile_size=32, swap_size=1, max_depth=1, scale_depth=False)


def perturbed_attention(sd, model):
    """PAG: evaluates the positive prompt a second time, without the middle block's self-attention."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return run_node(PerturbedAttentionGuidance, model=model, scale=3.0)


def self_attention(sd, model):
    """SAG: replaces the middle block's self-attention, evaluates the negative prompt a second time, alone."""
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return run_node(SelfAttentionGuidance, model=model, scale=0.5, blur_sigma=2.0)


def lora(sd, model):
    """A LoRA on the queries, values and outputs of every cross-attention below."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, random_lora(model, "output_blocks"), 0.8, 0.0)[0]


def merge_simple(sd, model):
    """Half of another model."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    return run_node(ModelMergeSimple, model1=model, model2=sd.other, ratio=0.5)


def merge_blocks(sd, model):
    """Another model's output blocks."""
    from comfy_extras.nodes_model_merging import ModelMergeBlocks

    return run_node(ModelMergeBlocks, model1=model, model2=sd.other, input=1.0, middle=1.0, out=0.0)


@dataclass(frozen=True)
class Case:
    """A node, and the blocks whose queries it leaves as they are in a first evaluation."""

    apply: Callable[[Any, Any], Any]
    upstream: tuple[str, ...]
    kind: str = "SD 1.5"


CASES = {
    "PatchModelAddDownscale": Case(downscale, ("input.1.", "input.2.")),
    "FreeU_V2": Case(free_u, ("input.", "middle.")),
    "HyperTile": Case(hyper_tile, ()),
    "PAG": Case(perturbed_attention, ("input.", "middle.", "output.")),
    "SAG": Case(self_attention, ("input.",)),
    "LoRA": Case(lora, ("input.", "middle.")),
    "ModelMergeSimple": Case(merge_simple, (), SMALL),
    "ModelMergeBlocks": Case(merge_blocks, ("input.", "middle."), SMALL),
}
each_node = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each_node
def test_the_identity_may_come_before_or_after_another_node(bench, case):
    """The two orders are the same picture bit for bit, and at strength 0 both are the other node's alone."""
    sd = bench(case.kind)
    other_alone = sd.draw(case.apply(sd, sd.model))
    assert not torch.equal(other_alone, sd.vanilla)
    before = sd.draw(case.apply(sd, sd.person.on(sd.model)))
    after = sd.draw(sd.person.on(case.apply(sd, sd.model)))
    assert before.isfinite().all()
    assert torch.equal(before, after)
    assert not torch.equal(before, other_alone)
    assert not torch.equal(before, sd.with_person)
    for nothing in (
        case.apply(sd, sd.person.on(sd.model, strength=0.0)),
        sd.person.on(case.apply(sd, sd.model), strength=0.0),
    ):
        assert torch.equal(sd.draw(nothing), other_alone)
    assert torch.equal(sd.draw(sd.model), sd.vanilla)


@each_node
def test_beside_another_node_the_identity_adds_what_it_adds_alone(bench, case):
    """See the module's docstring. Two steps, every evaluation, every site; the twin sees nothing of the other node."""
    sd = bench(case.kind)
    calls = sd.seen(sd.person.on(case.apply(sd, sd.model), strength=0.7), steps=2).calls
    assert {call.site for call in calls} == set(sd.person.found)
    for call in calls:
        expected = sd.person.expected(call, sd.positive, strength=0.7)
        torch.testing.assert_close(call.added, expected, rtol=1e-4, atol=1e-5)

    first = sd.seen(case.apply(sd, sd.person.on(sd.model))).first()
    for site, alone in sd.alone.items():
        if site.startswith(case.upstream):
            assert torch.equal(first[site].added, alone.added), f"{site}: untouched queries must give the same bits"


@pytest.mark.parametrize(("name", "rows"), [("PAG", 1), ("SAG", 0)])
def test_a_guidance_that_evaluates_a_prompt_again_gets_the_identity_with_the_positive_only(sd, name, rows):
    """PAG's second evaluation is the positive prompt's, SAG's the negative's; both call their prompt number 0."""
    calls = sd.seen(sd.person.on(CASES[name].apply(sd, sd.model))).calls
    again = [call for call in calls if call.evaluation == 2]
    assert len(again) == len(sd.person.found)
    assert all(len(call.q) == 1 and bool(call.added.abs().max() > 0.01) == bool(rows) for call in again)


def test_a_mask_lies_where_it_lies_in_a_shrunken_picture_too(sd):
    """Deep shrink halves the feature maps in the middle of the UNet: the left half stays the left half."""
    mask = torch.zeros(1, 96, 160)
    mask[..., :80] = 1
    first = sd.seen(sd.person.on(downscale(sd, sd.model), mask=mask)).first()
    assert first["input.5.0"].size == (3, 5)
    assert sd.alone["input.5.0"].size == (6, 10)
    for call in first.values():
        free = sd.person.expected(call, sd.positive).unflatten(1, call.size)
        columns = torch.nn.functional.interpolate(mask[None], call.size, mode="bilinear", antialias=True)[0, 0, 0]
        torch.testing.assert_close(call.added.unflatten(1, call.size), free * columns[:, None], rtol=1e-4, atol=1e-5)


def test_a_merge_takes_the_identity_of_its_first_model_and_not_of_its_second(bench):
    """As with every patch of ComfyUI: a merge mixes weights; what hangs in the first model stays, in the second not."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    sd = bench(SMALL)

    def merge(first: Any, second: Any) -> torch.Tensor:
        return sd.draw(run_node(ModelMergeSimple, model1=first, model2=second, ratio=0.5))

    plain = merge(sd.other, sd.model)
    assert torch.equal(merge(sd.other, sd.person.on(sd.model)), plain)
    once = merge(sd.person.on(sd.other), sd.model)
    assert not torch.equal(once, plain)
    assert torch.equal(merge(sd.person.on(sd.other), sd.person.on(sd.model)), once)


def test_a_chain_of_nodes_with_the_identity_anywhere_in_it(sd):
    """In the middle of the chain or at its end: the same picture. SAG is left out: it cannot read the middle block's
    map once deep shrink has halved it, with or without an identity."""
    chain = [CASES[name].apply for name in ("LoRA", "HyperTile", "FreeU_V2", "PatchModelAddDownscale", "PAG")]
    middle = end = sd.model
    for number, apply in enumerate(chain):
        middle, end = apply(sd, middle), apply(sd, end)
        if number == 2:
            middle = sd.person.on(middle)
    first, second = sd.draw(middle), sd.draw(sd.person.on(end))
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert not torch.equal(first, sd.draw(end))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "place"),
    [
        ("eager", "before"),
        ("aot_eager", "after"),
    ],
)
def test_the_identity_in_a_compiled_model(bench, backend, place):
    """TorchCompileModel traces, guards and breaks up our patch. Two backends of torch that generate no code, for speed:
    "eager" stops after dynamo, "aot_eager" goes through the functionalising that "inductor", the node's own choice,
    starts from. Compiled code may round otherwise, so that the picture is the same but for that; with strength 0 it is
    the compiled model's own bit for bit."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    def compiled(model: Any) -> Any:
        return run_node(TorchCompileModel, model=model, backend=backend)

    sd = bench(SMALL)
    torch.compiler.reset()
    if place == "before":
        out = sd.draw(compiled(sd.person.on(sd.model)))
    else:
        bare = compiled(sd.model)
        alone = sd.draw(bare)
        assert torch.equal(sd.draw(sd.person.on(bare, strength=0.0)), alone)
        out = sd.draw(sd.person.on(bare))
    torch.testing.assert_close(out, sd.with_person, rtol=1e-4, atol=1e-4 * sd.with_person.std().item())
