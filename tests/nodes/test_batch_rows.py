"""Whose prompt, which picture of a batch and which part of it a row of the UNet's batch is: one test a source."""

from __future__ import annotations

import inspect
import logging
from types import SimpleNamespace

import pytest
import torch

from tests.nodes.one_site import KEY, PIXELS, WIDTH, options_of_a_step, replacements, text_attention
from tests.nodes.small_unets import Person, build, conditioning, latents, run_node, sample, watch

PICTURES, STEPS = 4, 3


@pytest.fixture(scope="module")
def sd(comfy, pack):
    """A small model, an adapter, four people's codes."""
    model = build("SD 1.5, one level")
    person = Person(pack, model)
    patching, codes = pack.load("nodes.unet.apply"), pack.load("pidiff_core.wplus.codes")
    presets = pack.load("pidiff_core.adapter.presets")
    generator = torch.Generator().manual_seed(9)
    people = codes.WPlus(torch.randn(PICTURES, 18, 16, generator=generator), torch.zeros(18, 16), person.wplus.space)

    def on(wplus, patched=model, *, mask=None, **options):
        options = presets.ApplyOptions(**options)
        return patching.apply_identity(patched, person.adapter, wplus, options=options, mask_bhw=mask)

    return SimpleNamespace(
        model=model, person=person, people=people, on=on, positive=conditioning(model, 1),
        negative=conditioning(model, 2), latent=latents(8, 16, batch=PICTURES),
        run_state=pack.load("nodes.unet.run_state"),
    )  # fmt: skip


@pytest.fixture
def warnings(sd, caplog):
    """The warnings of a test, as if it were the first of the process."""
    sd.run_state.warn_once.cache_clear()
    caplog.set_level(logging.WARNING, logger="PIDiff")
    return lambda: [record.message for record in caplog.records if record.name == "PIDiff"]


def in_windows(model, *, length=PICTURES // 2, dim=0, anchor=True):
    nodes = pytest.importorskip("comfy_extras.nodes_context_windows", reason="this host has no context windows")
    settings = {
        "context_length": length, "context_overlap": 0, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "flat", "dim": dim, "freenoise": False,
        "causal_window_fix": anchor,
    }  # fmt: skip
    known = inspect.signature(nodes.ContextWindowsManualNode.execute).parameters  # older hosts have neither
    settings = {name: value for name, value in settings.items() if name in known}
    return nodes.ContextWindowsManualNode.execute(model=model, **settings).result[0]


def walking_mask():
    """Picture i shows the identity in its i-th quarter."""
    mask = torch.zeros(PICTURES, 64, 128)
    for picture in range(PICTURES):
        mask[picture, :, picture * 32 : (picture + 1) * 32] = 1.0
    return mask


@pytest.mark.parametrize("what", ["people", "masks", "left to right"])
def test_context_windows_keep_each_pictures_identity_and_mask(sd, what, warnings):
    if what == "people":
        patched = sd.on(sd.people)
    elif what == "masks":
        patched = sd.on(sd.people.select(0), mask=walking_mask())
    else:
        row = {"arrangement": "left to right"}
        patched = sd.on(sd.people.select(1), sd.on(sd.people.select(0), **row), **row)
    whole, windows = (
        sample(model, sd.positive, sd.negative, sd.latent, steps=STEPS) for model in (patched, in_windows(patched))
    )
    torch.testing.assert_close(windows, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())
    # The small model draws noise, which has fewer faces than people: that warning is right, in both.
    assert [text for text in warnings() if "fewer faces side by side" not in text] == []


@pytest.mark.parametrize("dim", [2, 3], ids=["height", "width"])
def test_context_windows_along_a_side_are_parts_of_the_picture(sd, dim, warnings):
    """The mask is the upper or the left half, and so is the first of the two windows."""
    size = sd.latent["samples"].shape[dim]
    mask = torch.zeros(1, 64, 128)
    mask.narrow(dim - 1, 0, mask.shape[dim - 1] // 2).fill_(1.0)
    patched = in_windows(sd.person.on(sd.model, mask=mask), length=size // 2, dim=dim, anchor=False)
    with watch(patched) as seen:
        sample(patched, sd.positive, sd.negative, {"samples": sd.latent["samples"][:1]}, steps=1)
    assert seen.evaluations == 2
    for call in seen.calls:
        inside = sd.person.expected(call, sd.positive)
        assert inside.abs().max() > 0.01
        expected = inside if call.evaluation == 1 else torch.zeros_like(inside)
        torch.testing.assert_close(call.added, expected, rtol=1e-4, atol=1e-5)
    assert warnings() == []


def several(sd, patched, **changes):
    """What the patch adds at its first site to two rows, as the hook is called without a sampler."""
    patch = next(iter(replacements(patched).values()))
    width, heads = sd.person.found[patch.name].spec[1:]
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, n, width, generator=generator).expand(2, -1, -1).contiguous() for n in (64, 7, 7))
    from comfy.ldm.modules.attention import optimized_attention

    options = options_of_a_step(n_heads=heads, activations_shape=[2, width, 8, 8], **changes)
    return patch(q, k, v, options) - optimized_attention(q, k, v, heads)


def test_the_frames_of_an_animatediff_window(sd):
    frames = several(sd, sd.on(sd.people), ad_params={"sub_idxs": [2, 3]})
    for row, picture in enumerate((2, 3)):
        alone = several(sd, sd.on(sd.people.select(picture)))
        assert alone.abs().max() > 0.01
        torch.testing.assert_close(frames[row], alone[row], rtol=1e-4, atol=1e-5)
    everything = several(sd, sd.on(sd.people), ad_params={"sub_idxs": None})
    torch.testing.assert_close(everything, several(sd, sd.on(sd.people)), rtol=0, atol=0)


def test_a_picture_taken_from_a_batch_keeps_its_identity(sd):
    """LatentFromBatch tells the host of which picture the latent is, and the host the noise alone."""
    import nodes as host_nodes

    batch = {"samples": sample(sd.on(sd.people), sd.positive, sd.negative, sd.latent)}
    for first, length in ((2, 1), (1, 3)):
        picked = host_nodes.LatentFromBatch().frombatch(batch, first, length)[0]
        again = sample(sd.on(sd.people), sd.positive, sd.negative, picked, denoise=0.5)
        for row in range(length):
            own = sd.on(sd.people.select(first + row))
            alone = sample(own, sd.positive, sd.negative, picked, denoise=0.5)
            torch.testing.assert_close(again[row], alone[row], rtol=1e-4, atol=1e-4)


def tiled(model):
    """Evaluates the left and the right half of the picture as two rows, as tiling packs do."""
    model = model.clone()

    def evaluate(apply_model, args):
        halves = torch.cat(args["input"].chunk(2, dim=-1))
        conditions = dict(args["c"])
        conditions["c_crossattn"] = conditions["c_crossattn"].repeat(2, 1, 1)
        out = apply_model(halves, args["timestep"].repeat(2), **conditions)
        return torch.cat(out.chunk(2), dim=-1)

    model.set_model_unet_function_wrapper(evaluate)
    return model


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_in_one_call_have_the_identity_with_their_positive_prompt(sd, batch):
    """Each tile brings the rows of both prompts: positive, negative, positive, negative."""
    person = sd.person.on(sd.model)
    with watch(person) as seen:
        sample(tiled(person), sd.positive, sd.negative, {"samples": sd.latent["samples"][:batch]}, steps=1)
    assert {len(call.q) for call in seen.calls} == {4 * batch}
    for call in seen.calls:
        expected = sd.person.expected(call, sd.positive)
        assert [bool(row.any()) for row in expected].count(True) == 2 * batch
        torch.testing.assert_close(call.added, expected, rtol=1e-4, atol=1e-5)


def test_tiles_of_which_nothing_is_known_are_warned_of_if_it_matters(sd, warnings):
    one = {**sd.latent, "samples": sd.latent["samples"][:1]}
    patched = sd.on(sd.people.select(0))
    drawn = sample(tiled(patched), sd.positive, sd.negative, one, cfg=1.0)
    assert (drawn - sample(tiled(sd.model), sd.positive, sd.negative, one, cfg=1.0)).abs().max() > 0.01
    assert warnings() == []
    masked = sd.on(sd.people.select(0), mask=walking_mask()[:1])
    for _ in range(2):
        sample(tiled(masked), sd.positive, sd.negative, one, cfg=1.0)
    assert len(warnings()) == 1
    assert "cannot tell which picture" in warnings()[0]


def test_a_batch_that_grows_inside_the_attention_gets_nothing_and_a_warning(sd, warnings):
    """Attention couple repeats the conditional rows for each region; which rows these are, it does not tell."""

    def grow(q, k, v, extra_options):
        return tuple(torch.cat([x[:1], x[:1], x[1:]]) for x in (q, k, v))

    def shrink(out, extra_options):
        return torch.cat([out[:2].mean(dim=0, keepdim=True), out[2:]])

    def couple(model):
        model = model.clone()
        model.set_model_attn2_patch(grow)
        model.set_model_attn2_output_patch(shrink)
        return model

    one = {**sd.latent, "samples": sd.latent["samples"][:1]}
    plain = sample(couple(sd.model), sd.positive, sd.negative, one)
    torch.testing.assert_close(sample(couple(sd.on(sd.people)), sd.positive, sd.negative, one), plain, rtol=0, atol=0)
    assert len(warnings()) == 1
    assert "changes the batch inside the UNet's attention" in warnings()[0]


def test_a_prompt_that_is_neither_positive_nor_negative_gets_no_identity(sd, warnings):
    """The older PerpNeg node evaluates an empty prompt, which the guider does not list, as number 0."""
    from comfy_extras.nodes_perpneg import PerpNeg

    empty = conditioning(sd.model, 3)
    patched = run_node(PerpNeg, model=sd.person.on(sd.model), empty_conditioning=empty, neg_scale=1.0)
    with watch(patched) as seen:
        sample(patched, sd.positive, sd.negative, sd.latent, steps=1)
    assert any(torch.equal(call.context[0], empty[0][0][0]) for call in seen.calls)
    for call in seen.calls:
        torch.testing.assert_close(call.added, sd.person.expected(call, sd.positive), rtol=1e-4, atol=1e-5)
    assert len(warnings()) == 1
    assert "neither the sampler's positive nor its negative" in warnings()[0]


def test_a_third_half_of_a_call_without_a_sampler_gets_nothing(small):
    q, k, v = (torch.randn(3, n, WIDTH, generator=torch.Generator().manual_seed(5)) for n in (PIXELS, 7, 7))
    out = replacements(small.apply(kind="wplus-adapter", unconditional="average person"))[KEY](
        q, k, v, options_of_a_step(cond_or_uncond=[0, 1, 2])
    )
    gained = (out - text_attention(q, k, v)).abs().amax(dim=(1, 2))
    assert (gained > 0.01).tolist() == [True, True, False]
