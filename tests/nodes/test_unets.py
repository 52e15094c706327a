"""Every kind of Stable Diffusion UNet: where its sites are, and that an adapter acts at all of them, at any size, in
any order of the halves, in any memory and in any type."""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace

import pytest
import torch

from tests.nodes.small_unets import KINDS, Person, build, conditioning, cross_attentions, latents, sample, watch

# The published layouts: how many sites, and how many layers some of the blocks have.
LAYERS = {
    "SD 1.5": (16, {"input.1": 1, "input.8": 1, "middle.0": 1, "output.3": 1, "output.11": 1}),
    "SD 2.1 v": (16, {"input.1": 1, "input.8": 1, "middle.0": 1, "output.3": 1, "output.11": 1}),
    "SDXL": (70, {"input.4": 2, "input.5": 2, "input.7": 10, "middle.0": 10, "output.0": 10, "output.5": 2}),
    "SDXL refiner": (44, {"input.4": 4, "input.8": 4, "middle.0": 4, "output.3": 4, "output.8": 4}),
    "SSD-1B": (34, {"input.4": 2, "input.8": 4, "middle.0": 0, "output.0": 4, "output.2": 10, "output.5": 1}),
    "KOALA 700M": (21, {"input.3": 2, "input.5": 5, "middle.0": 0, "output.0": 5, "output.3": 2}),
}
LAYERS |= {"SD 1.5 inpainting": LAYERS["SD 1.5"], "SD 2 inpainting": LAYERS["SD 2.1 v"]}
LAYERS |= {"SDXL inpainting": LAYERS["SDXL"]}

each_kind = pytest.mark.parametrize("kind", KINDS)
one_of_each = pytest.mark.parametrize(
    "kind",
    [
        "SD 1.5 inpainting",
        "SDXL",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("SD 2.1 v", "SDXL refiner")),
    ],
)


@pytest.fixture(scope="module")
def unet(comfy, pack):
    """By kind: a model, an adapter for it, two prompts."""

    @functools.cache
    def make(kind: str) -> SimpleNamespace:
        model = build(kind)
        return SimpleNamespace(
            model=model, person=Person(pack, model), positive=conditioning(model, 1), negative=conditioning(model, 2)
        )

    return make


@each_kind
def test_sites_and_widths_are_read_off_the_model(unet, kind):
    small = unet(kind)
    count, layers = LAYERS[kind]
    modules = cross_attentions(small.model.model.diffusion_model)
    assert len(modules) == count
    for block, number in layers.items():
        assert sum(name.rsplit(".", 1)[0] == block for name in modules) == number, block
    assert set(small.person.found) == set(modules)
    for name, attention in modules.items():
        found = small.person.found[name]
        assert found.spec == (name, attention.to_q.out_features, attention.heads)
        assert found.context_width == small.positive[0][0].shape[-1]
        assert found.spec.width // found.spec.heads == 64 or kind.startswith("SD 1.5")


@each_kind
@pytest.mark.parametrize("size", [(9, 13), pytest.param((17, 8), marks=pytest.mark.slow)])
def test_an_adapter_made_from_the_models_sites_acts_at_all_of_them(unet, kind, size):
    """Odd sizes: every level of the UNet rounds them its own way."""
    small = unet(kind)
    start = latents(*size)
    plain = sample(small.model, small.positive, small.negative, start, steps=1)
    with watch(small.model) as seen:
        out = sample(small.person.on(small.model, strength=0.8), small.positive, small.negative, start, steps=1)
    assert (out - plain).abs().max() > 1e-3 * plain.std()
    assert set(seen.first()) == set(small.person.found)
    for call in seen.calls:
        expected = small.person.expected(call, small.positive, strength=0.8)
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(call.added, expected, rtol=1e-4, atol=1e-5)
    nothing = small.person.on(small.model, strength=0.0)
    assert torch.equal(sample(nothing, small.positive, small.negative, start, steps=1), plain)


@one_of_each
def test_a_tile_of_the_picture_with_its_own_place_and_crop(unet, kind):
    """A prompt for a part of the picture at odd offsets, with the sizes and crops that SDXL wants to know: a mask for
    the rest of the picture leaves the tile bit for bit as it is, a mask for the tile is as good as none."""
    small = unet(kind)
    place = {"width": 512, "height": 768, "crop_w": 64, "crop_h": 8, "target_width": 832, "target_height": 576}
    tile = conditioning(small.model, 1, area=(8, 7, 1, 6), strength=1.0, **place)
    rest, here = torch.ones(1, 9 * 8, 13 * 8), torch.zeros(1, 9 * 8, 13 * 8)
    rest[:, 8:, 48:], here[:, 8:, 48:] = 0, 1
    start = latents(9, 13)
    plain, outside, inside, free = (
        sample(model, tile, small.negative, start, steps=1)
        for model in (
            small.model,
            small.person.on(small.model, mask=rest),
            small.person.on(small.model, mask=here),
            small.person.on(small.model),
        )
    )
    assert torch.equal(outside, plain)
    torch.testing.assert_close(inside, free, rtol=1e-5, atol=1e-5 * free.std().item())
    assert (free - plain).abs().max() > 1e-3 * plain.std()


@one_of_each
def test_a_host_short_of_memory_runs_the_halves_apart_to_the_same_end(unet, kind, monkeypatch):
    """Rounding depends on the batch: the identity may add no more of it than the model itself has."""
    small = unet(kind)
    models = (small.model, small.person.on(small.model))
    together, apart = [], []
    for evaluations, results in ((1, together), (2, apart)):
        for model in models:
            with watch(small.model) as seen:
                results.append(sample(model, small.positive, small.negative, latents(9, 13, batch=2), steps=1))
            assert seen.evaluations == evaluations
        monkeypatch.setattr(type(small.model.model), "memory_required", lambda *_, **__: 1e18)
    rounding, difference = ((one - other).abs().max() for one, other in zip(together, apart))
    assert difference <= 2 * rounding + 1e-5 * together[1].std()


def evaluate(model, halves, size=(9, 13), rows=2):
    """One evaluation: chunk by chunk the same latents, each half with its own prompt (B, 4, h, w)."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    return evaluate_as_loaded(model, halves, size, rows)


def evaluate_as_loaded(model, halves, size=(9, 13), rows=2):
    """The same, with the weights where they are; the result is on the CPU."""
    device = model.load_device
    generator = torch.Generator().manual_seed(9)
    config = model.model.model_config.unet_config
    chunks = [torch.randn(rows, 4, *size, generator=generator)] * len(halves)
    text = {half: torch.randn(1, 7, config["context_dim"], generator=generator) for half in (0, 1)}
    extra = {}
    if model.model.adm_channels:
        extra["y"] = torch.randn(1, model.model.adm_channels, generator=generator).expand(rows * len(halves), -1)
    if config["in_channels"] > 4:
        concat = torch.randn(rows, config["in_channels"] - 4, *size, generator=generator)
        extra["c_concat"] = concat.repeat(len(halves), 1, 1, 1)
    sigmas = torch.full((rows,), 2.0, device=device)
    options = {**model.model_options["transformer_options"], "cond_or_uncond": halves, "sigmas": sigmas}
    with torch.no_grad():
        return model.model.apply_model(
            torch.cat(chunks).to(device), sigmas.repeat(len(halves)), transformer_options=options,
            c_crossattn=torch.cat([text[half].expand(rows, -1, -1) for half in halves]).to(device),
            **{name: tensor.to(device) for name, tensor in extra.items()},
        ).cpu()  # fmt: skip


@one_of_each
def test_weights_that_stay_off_the_device_change_nothing(comfy, unet, kind):
    """As in ComfyUI's low-memory modes: most layers bring their weights for each call; later all are unloaded."""
    import comfy.model_management

    small = unet(kind)
    patched = small.person.on(small.model)
    plain, whole = evaluate(small.model, [0, 1]), evaluate(patched, [0, 1])
    comfy.model_management.unload_all_models()
    patched.load(patched.load_device, lowvram_model_memory=patched.model_size() // 4)
    assert patched.model.model_lowvram
    partly = evaluate_as_loaded(patched, [0, 1])
    patched.detach()
    assert not torch.equal(whole, plain)
    assert torch.equal(partly, whole)
    assert torch.equal(evaluate(patched, [0, 1]), whole)


@one_of_each
def test_the_halves_may_come_in_any_order(unet, kind):
    small = unet(kind)
    patched = small.person.on(small.model)
    alone = {half: evaluate(patched, [half]) for half in (0, 1)}
    torch.testing.assert_close(alone[1], evaluate(small.model, [1]), rtol=0, atol=0)
    plain = evaluate(small.model, [0])
    assert (alone[0] - plain).abs().max() > 0.01 * plain.std()
    for halves in ([0, 1], [1, 0], [0, 1, 0], [1, 1, 0]):
        joined = evaluate(patched, halves).chunk(len(halves))
        for half, rows in zip(halves, joined):
            torch.testing.assert_close(rows, alone[half], rtol=1e-4, atol=1e-4)


WIDTHS = {"SD 1.5": 24, "SD 2.1 v": 32, "SDXL": 48, "SDXL refiner": 40}  # of the context, in small_unets.py


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (kind, other)
        for kind in ("SD 1.5", "SD 1.5 inpainting", "SD 2.1 v", "SDXL", "SDXL inpainting")
        for other in WIDTHS
        if other != kind.removesuffix(" inpainting")
    ],
)
def test_an_adapter_of_another_kind_is_refused_with_both_widths(unet, pack, kind, other):
    base = kind.removesuffix(" inpainting")
    match = rf"its tokens are {WIDTHS[other]} wide, the model's context is {WIDTHS[base]} wide"
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=match):
        unet(other).person.on(unet(kind).model)


def test_where_the_context_is_as_wide_the_sites_tell(unet, pack):
    match = r"at site \S+ it expects \d+ channels in \d+ heads, the model has no such site"
    with pytest.raises(pack.load("pidiff_core.errors").PIDiffError, match=match):
        unet("SDXL").person.on(unet("SSD-1B").model)


@pytest.mark.parametrize(("base", "kind"), [("SD 1.5", "SD 1.5 inpainting"), ("SDXL", "SDXL inpainting")])
def test_an_inpainting_model_takes_its_bases_adapter(unet, base, kind):
    person, model = unet(base).person, unet(kind).model
    with watch(model) as seen:
        evaluate(person.on(model), [1, 0])
    positive = [[seen.calls[0].context[-1:], {}]]
    assert {call.site for call in seen.calls} == set(person.found)
    for call in seen.calls:
        torch.testing.assert_close(call.added, person.expected(call, positive), rtol=1e-4, atol=1e-5)


def test_a_model_with_a_person_is_saved_as_the_plain_model(comfy, pack, tmp_path):
    """CheckpointSave and ModelSave: the person is a patch of the sampling, and no weight."""
    import comfy.sd
    from safetensors.torch import load_file

    model = build("SD 1.5, one level")
    saved = []
    for name, patched in (("plain", model), ("person", Person(pack, model).on(model))):
        comfy.sd.save_checkpoint(str(tmp_path / name), patched)
        saved.append(load_file(tmp_path / name))
    plain, person = saved
    assert plain.keys() == person.keys()
    assert len(plain) > 20
    assert all(torch.equal(plain[key], person[key]) for key in plain)


class Packed(torch.nn.Module):
    """A linear layer as quantising packs make them: 4-bit pairs and a scale for each row, and no in_features."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        self.scale = torch.nn.Parameter(weight.abs().amax(dim=1, keepdim=True) / 7, requires_grad=False)
        numbers = (weight / self.scale).round().to(torch.int8) + 8
        self.weight = torch.nn.Parameter((numbers[:, ::2] * 16 + numbers[:, 1::2]).to(torch.uint8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        numbers = torch.stack([self.weight // 16, self.weight % 16], dim=-1).flatten(1).to(x) - 8
        return torch.nn.functional.linear(x, numbers * self.scale.to(x), self.bias)


class Wrapped(torch.nn.Module):
    """A linear layer inside a module of another pack."""

    def __init__(self, linear):
        super().__init__()
        self.base_layer = linear

    def forward(self, x):
        return self.base_layer(x)


def with_layers(model, kind):
    """The model with every linear layer of its cross-attentions replaced."""
    for path, layer in list(model.model.diffusion_model.named_modules()):
        if re.search(r"attn2\.to_(q|k|v|out\.0)$", path):
            owner, name = path.rsplit(".", 1)
            setattr(model.model.diffusion_model.get_submodule(owner), name, kind(layer))
    return model


@pytest.mark.parametrize("kind", [Packed, Wrapped])
def test_layers_of_quantising_packs(comfy, pack, kind):
    """The identity is what it is for the queries that such layers make."""
    person = Person(pack, build("SD 1.5, one level"))
    model = with_layers(build("SD 1.5, one level"), kind)
    with watch(person.on(model)) as seen:
        evaluate(person.on(model), [1, 0])
    positive = [[seen.calls[0].context[-1:], {}]]
    assert len(seen.calls) == len(person.found)
    for call in seen.calls:
        assert call.added.abs().max() > 0.01
        torch.testing.assert_close(call.added, person.expected(call, positive), rtol=1e-4, atol=1e-5)


def test_exception_layers_of_unknown_width(comfy, pack, monkeypatch):
    person = Person(pack, build("SD 1.5, one level"))
    model = with_layers(build("SD 1.5, one level"), Packed)
    monkeypatch.delitem(model.model.model_config.unet_config, "context_dim")
    error = pack.load("pidiff_core.errors").PIDiffError
    with pytest.raises(error, match=r"layers are of the type Packed.*before the node that quantises"):
        person.on(model)


HALF, BRAIN, EIGHT, FULL = torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32
TYPES = {
    "fp16": (HALF, None), "bf16": (BRAIN, None), "fp16 stored": (HALF, FULL), "bf16 stored": (BRAIN, FULL),
    "fp8 stored, fp32": (EIGHT, FULL), "fp8 stored, bf16": (EIGHT, BRAIN), "fp8 stored, fp16": (EIGHT, HALF),
}  # fmt: skip


@pytest.fixture(scope="module")
def exactly(unet):
    """By kind and type of the weights: the prediction in fp32 with those weights, with and without the identity."""

    @functools.cache
    def make(kind: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        model = build(kind)
        for parameter in model.model.diffusion_model.parameters():
            parameter.data.copy_(parameter.to(dtype).float())
        return evaluate(unet(kind).person.on(model), [1, 0]), evaluate(model, [1, 0])

    return make


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        *(("SD 1.5", stored) for stored in TYPES),
        pytest.param("SD 2.1 v", "fp16", marks=pytest.mark.slow),
        pytest.param("SDXL", "bf16", marks=pytest.mark.slow),
        pytest.param("SDXL refiner", "fp8 stored, bf16", marks=pytest.mark.slow),
    ],
)
def test_types_of_weights_and_of_arithmetic(unet, exactly, kind, stored):
    """Against fp32 with the very same weights. At every site the identity's contribution is off by no more than the
    type's rounding of what it is added to; and in the prediction the identity costs no precision: the type's error is
    as large with it as without."""
    dtype, cast = TYPES[stored]
    computed = cast or dtype
    model = build(kind, dtype=dtype, manual_cast=cast)
    person = unet(kind).person
    with watch(model) as seen:
        drawn = evaluate(person.on(model), [1, 0])
    plain = evaluate(model, [1, 0])
    assert {call.output.dtype for call in seen.calls} == {computed}
    positive = [[seen.calls[0].context[-1:], {}]]
    for call in seen.calls:
        error = (call.output.float() - call.text.float() - person.expected(call, positive)).abs().max()
        assert error < 4 * torch.finfo(computed).eps * call.output.abs().max(), call.site

    exactly_drawn, exactly_plain = exactly(kind, dtype)
    (uncond, cond), (uncond_plain, _) = drawn.chunk(2), plain.chunk(2)
    assert torch.equal(uncond, uncond_plain)
    assert cond.isfinite().all()
    error, own_error = ((a - b).square().mean().sqrt() for a, b in ((drawn, exactly_drawn), (plain, exactly_plain)))
    effect = (exactly_drawn - exactly_plain).square().mean().sqrt()
    assert error < 1.5 * own_error + 1e-5 * effect
    assert error < effect / 2
