"""The identity beside ComfyUI's own conditioning: ControlNet, regional prompts, inpainting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.nodes.small_unets import (
    SD15,
    Person,
    build,
    conditioning,
    fill,
    latents,
    run_node,
    sample,
    small_vae,
    watch,
)

HEIGHT, WIDTH = 16, 24


@pytest.fixture(scope="module")
def sd(comfy, pack):
    model = build("SD 1.5")
    return SimpleNamespace(
        model=model, person=Person(pack, model), positive=conditioning(model, 1), negative=conditioning(model, 2),
        other=conditioning(model, 3), latent=latents(HEIGHT, WIDTH),
    )  # fmt: skip


def draw(sd, model, positive, negative=None, **options):
    return sample(model, positive, negative or sd.negative, options.pop("latent", sd.latent), **options)


def seen(sd, model, positive, negative=None, **options):
    with watch(model) as calls:
        out = draw(sd, model, positive, negative, **{"steps": 1} | options)
    return calls, out


def assert_the_identity_adds_what_it_adds_alone(sd, calls, positives):
    assert {call.site for call in calls} == set(sd.person.found)
    for call in calls:
        torch.testing.assert_close(call.added, sd.person.expected(call, positives), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def control_net(sd):
    """A ControlNet of the UNet's own layout with random weights, its zero convolutions not zero."""
    import comfy.cldm.cldm
    import comfy.controlnet

    layout = {key: value for key, value in SD15.items() if key not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, num_heads=8, device="cpu", **layout).eval()
    fill(network, seed=6)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def controlled(sd, control_net, **options):
    """ControlNetApplyAdvanced with a random picture: (positive, negative)."""
    import nodes as host_nodes

    image = torch.rand(1, HEIGHT * 8, WIDTH * 8, 3, generator=torch.Generator().manual_seed(8))
    options = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0} | options
    return host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        sd.positive, sd.negative, control_net, image, **options
    )


def test_a_control_net_and_the_identity_do_not_see_each_other(sd, control_net):
    """A ControlNet runs beside the UNet and adds to the middle block's output and to the skip connections. So in the
    first evaluation its signal is bit for bit the same with an identity, and the identity's contribution in input and
    middle blocks is the same with a ControlNet; everywhere it is the twin's for the query that arrives."""
    both_halves = controlled(sd, control_net)
    patched = sd.person.on(sd.model)
    signals: list[list[torch.Tensor]] = []
    hook = control_net.control_model.register_forward_hook(
        lambda _, __, out: signals.append([x.clone() for part in out.values() for x in part])
    )
    try:
        plain = draw(sd, sd.model, *both_halves, steps=1)
        calls, out = seen(sd, patched, *both_halves)
    finally:
        hook.remove()
    assert len(signals) == 2
    assert all(torch.equal(*pair) for pair in zip(*signals))
    assert_the_identity_adds_what_it_adds_alone(sd, calls.calls, sd.positive)
    alone = seen(sd, patched, sd.positive)[0].first()
    for site, call in calls.first().items():
        assert torch.equal(call.added, alone[site].added) == (not site.startswith("output")), site
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert torch.equal(draw(sd, sd.person.on(sd.model, strength=0.0), *both_halves, steps=1), plain)


@pytest.mark.slow
def test_a_control_net_for_part_of_the_steps(sd, control_net):
    """Where only one of two prompts is controlled, or a part of the steps, the halves are evaluated apart."""
    positive, _ = controlled(sd, control_net, strength=0.6, end_percent=0.5)
    plain = draw(sd, sd.model, positive, steps=4)
    calls, out = seen(sd, sd.person.on(sd.model), positive, steps=4)
    assert calls.evaluations > 4
    assert_the_identity_adds_what_it_adds_alone(sd, calls.calls, sd.positive)
    assert out.isfinite().all()
    assert torch.equal(draw(sd, sd.person.on(sd.model, strength=0.0), positive, steps=4), plain)


def part(node: str, text: Any, **inputs: Any) -> Any:
    import nodes as host_nodes

    return run_node(getattr(host_nodes, node), conditioning=text, strength=1.0, **inputs)


def side(*, left: bool) -> torch.Tensor:
    mask = torch.zeros(1, HEIGHT * 8, WIDTH * 8)
    mask[..., : WIDTH * 4] = 1
    return mask if left else 1 - mask


REGIONS = {
    "ConditioningSetArea": lambda text, left: part(
        "ConditioningSetArea", text, width=WIDTH * 4, height=HEIGHT * 8, x=0 if left else WIDTH * 4, y=0
    ),
    "ConditioningSetAreaPercentage": lambda text, left: part(
        "ConditioningSetAreaPercentage", text, width=0.5, height=1.0, x=0.0 if left else 0.5, y=0.0
    ),
    "ConditioningSetMask, default": lambda text, left: part(
        "ConditioningSetMask", text, mask=side(left=left), set_cond_area="default"
    ),
    "ConditioningSetMask, mask bounds": lambda text, left: part(
        "ConditioningSetMask", text, mask=side(left=left), set_cond_area="mask bounds"
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regional_prompts(sd, name):
    """Two prompts, one a side. Without a mask the identity comes with both. With a mask on the left side it adds to
    the left prompt's pixels what it adds without one, and nothing to the right one's; where the right prompt is
    evaluated on its own part of the picture, that part stays bit for bit what it is without an identity."""
    region = REGIONS[name]
    both = [*region(sd.positive, True), *region(sd.other, False)]
    plain = draw(sd, sd.model, both, steps=1)
    calls, free = seen(sd, sd.person.on(sd.model), both)
    assert_the_identity_adds_what_it_adds_alone(sd, calls.calls, [*sd.positive, *sd.other])
    assert free.isfinite().all()
    assert torch.equal(draw(sd, sd.person.on(sd.model, strength=0.0), both, steps=1), plain)

    masked, out = seen(sd, sd.person.on(sd.model, mask=side(left=True)), both)
    if name == "ConditioningSetMask, default":  # both prompts are evaluated on the whole picture
        for call in masked.calls:
            expected = sd.person.expected(call, [*sd.positive, *sd.other]).unflatten(1, call.size)
            added, middle = call.added.unflatten(1, call.size), call.size[1] // 2
            torch.testing.assert_close(added[:, :, : middle - 1], expected[:, :, : middle - 1], rtol=1e-4, atol=1e-5)
            assert not added[:, :, middle + 2 :].any()
        return
    assert_the_identity_adds_what_it_adds_alone(sd, masked.calls, sd.positive)
    assert torch.equal(out[..., WIDTH // 2 :], plain[..., WIDTH // 2 :])
    left = [x[..., : WIDTH // 2] for x in (out, free)]  # resizing a mask of ones gives ones but for the last bit
    torch.testing.assert_close(*left, rtol=1e-5, atol=1e-5 * free.std().item())


def test_inpainting_with_a_noise_mask_keeps_the_rest_of_the_picture(sd):
    """SetLatentNoiseMask: outside of it the sampler puts the given latent back after every step. The identity changes
    what is drawn inside; outside the result is bit for bit the one without it."""
    import nodes as host_nodes

    hole = side(left=True)
    latent = run_node(host_nodes.SetLatentNoiseMask, samples=sd.latent, mask=hole)
    plain = draw(sd, sd.model, sd.positive, latent=latent)
    calls, out = seen(sd, sd.person.on(sd.model), sd.positive, latent=latent, steps=2)
    assert_the_identity_adds_what_it_adds_alone(sd, calls.calls, sd.positive)
    outside = slice(WIDTH // 2, None)
    torch.testing.assert_close(out[..., outside], sd.latent["samples"][..., outside])
    assert torch.equal(out[..., outside], plain[..., outside])
    assert not torch.equal(out, plain)
    assert torch.equal(draw(sd, sd.person.on(sd.model, strength=0.0), sd.positive, latent=latent), plain)


@pytest.mark.parametrize("kind", ["SD 1.5 inpainting", pytest.param("SDXL inpainting", marks=pytest.mark.slow)])
@pytest.mark.parametrize("noise_mask", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_inpainting_models_of_nine_channels(comfy, pack, kind, noise_mask):
    """InpaintModelConditioning: the mask and the masked picture enter the first convolution, before every site."""
    import nodes as host_nodes

    vae = small_vae()
    model = build(kind)
    person = Person(pack, model)
    pixels = torch.rand(1, HEIGHT * 8, WIDTH * 8, 3, generator=torch.Generator().manual_seed(8))
    positive, negative, latent = host_nodes.InpaintModelConditioning().encode(
        conditioning(model, 1), conditioning(model, 2), pixels, vae, side(left=True), noise_mask
    )
    plain = sample(model, positive, negative, latent)
    with watch(model) as calls:
        out = sample(person.on(model), positive, negative, latent)
    for call in calls.calls:
        torch.testing.assert_close(call.added, person.expected(call, positive), rtol=1e-4, atol=1e-5)
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    if noise_mask:
        assert torch.equal(out[..., WIDTH // 2 :], plain[..., WIDTH // 2 :])
    assert torch.equal(sample(person.on(model, strength=0.0), positive, negative, latent), plain)
    assert not torch.equal(sample(model, conditioning(model, 1), conditioning(model, 2), latent), plain)
