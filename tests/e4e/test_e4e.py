"""The encoder: published layout, which head reads which map, offsets, the arithmetic written out, wrong inputs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pidiff_core.e4e.config import PRESETS, EncoderConfig, heads_for
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError

SMALL = EncoderConfig(
    image_size=32,
    num_styles=6,
    width=5,
    stem_channels=8,  # at least 8 a group: below, oneDNN's AVX2 gradient of a strided 1x1 convolution spoils the heap
    units=(1, 2, 1, 1),
    depths=(8, 12, 16, 16),
    head_channels=7,
    heads=(2, 1, 3),
    se_reduction=2,
)


def small_encoder(seed=0):
    torch.manual_seed(seed)
    return E4eEncoder(SMALL).eval()


def crops(batch=2, size=32, seed=1):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return E4eEncoder(PRESETS["ffhq-1024"])


def test_the_published_encoder_has_its_size(published):
    assert sum(parameter.numel() for parameter in published.parameters()) == 267_136_704
    assert published(torch.zeros(2, 3, 256, 256, device="meta")).shape == (2, 18, 512)
    assert len(published.body) == 24


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("input_layer.0.weight", (64, 3, 3, 3)),
        ("input_layer.1.running_mean", (64,)),
        ("input_layer.2.weight", (64,)),
        ("body.0.res_layer.1.weight", (64, 64, 3, 3)),
        ("body.0.res_layer.5.fc1.weight", (4, 64, 1, 1)),
        ("body.3.shortcut_layer.0.weight", (128, 64, 1, 1)),
        ("body.3.shortcut_layer.1.num_batches_tracked", ()),
        ("body.23.res_layer.4.bias", (512,)),
        ("latlayer1.weight", (512, 256, 1, 1)),
        ("latlayer2.bias", (512,)),
        ("styles.0.convs.6.weight", (512, 512, 3, 3)),
        ("styles.3.convs.8.bias", (512,)),
        ("styles.17.convs.10.weight", (512, 512, 3, 3)),
        ("styles.17.linear.weight", (512, 512)),
    ],
)
def test_the_published_layout(published, key, shape):
    assert tuple(published.state_dict()[key].shape) == shape


@pytest.mark.parametrize(
    "key",
    [
        "body.1.shortcut_layer.0.weight",
        "body.24.res_layer.0.weight",
        "styles.0.convs.8.weight",
        "styles.18.linear.bias",
    ],
)
def test_the_published_layout_has_not_more(published, key):
    assert key not in published.state_dict()


@pytest.mark.parametrize(("num_styles", "heads"), [(18, (3, 4, 11)), (10, (2, 2, 6)), (14, (2, 3, 9))])
def test_heads_are_shared_out_in_proportion(num_styles, heads):
    assert heads_for(num_styles) == heads


def test_convolutions_of_a_head_lead_down_to_one_pixel():
    encoder = small_encoder()
    counts = [sum(isinstance(layer, torch.nn.Conv2d) for layer in head.convs) for head in encoder.styles]
    assert counts == [1, 1, 2, 3, 3, 3]  # from 2, 4 and 8 px maps


def test_a_head_moves_its_own_style_and_the_first_one_all():
    encoder = small_encoder()
    with torch.no_grad():
        before = encoder(crops())
        encoder.styles[4].linear.bias += 1.0
        one = encoder(crops()) - before
        encoder.styles[0].linear.bias += 2.0
        everyone = encoder(crops()) - before - one
    expected = torch.zeros(2, 6, 5)
    expected[:, 4] = 1.0
    torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(everyone, torch.full((2, 6, 5), 2.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layer", "moved"), [("latlayer1", [2, 3, 4, 5]), ("latlayer2", [3, 4, 5])])
def test_coarse_styles_do_not_see_the_finer_maps(layer, moved):
    encoder = small_encoder()
    with torch.no_grad():
        before = encoder(crops())
        getattr(encoder, layer).bias += 10.0
        change = (encoder(crops()) - before).abs().amax(dim=(0, 2))
    assert [style for style in range(6) if change[style] > 1e-4] == moved


def test_a_batch_equals_its_singles():
    encoder = small_encoder()
    with torch.no_grad():
        torch.testing.assert_close(encoder(crops())[1:], encoder(crops()[1:]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight():
    encoder = small_encoder().train()
    encoder(crops(4)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 3, 32, 16), (1, 1, 32, 32), (3, 32, 32)])
def test_crops_of_another_size_are_refused(shape):
    with pytest.raises(PIDiffError, match=r"\(B 3 32 32\)"):
        small_encoder()(torch.zeros(shape))


@pytest.mark.parametrize(
    "fields",
    [{"image_size": 48}, {"image_size": 16}, {"heads": (3, 4, 10)}, {"heads": (0, 7, 11)}, {"units": (1, 1, 1)}],
)
def test_impossible_sizes_are_refused(fields):
    with pytest.raises(PIDiffError):
        EncoderConfig(**fields)


def test_configurations_come_back_from_json():
    for config in PRESETS.values():
        assert EncoderConfig.from_dict(config.to_dict()) == config
    with pytest.raises(PIDiffError, match="colour"):
        EncoderConfig.from_dict({"colour": 1})


def randomised(config, seed=0):
    """An encoder in evaluation mode, its batch norms and slopes away from the values that leave a signal unchanged."""
    torch.manual_seed(seed)
    encoder = E4eEncoder(config)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
            elif isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(-0.5, 0.5)
        for _ in range(3):
            encoder(torch.randn(4, 3, config.image_size, config.image_size))
    return encoder.eval()


def written_out(encoder, images):
    """The encoder's arithmetic from its weights alone, without its modules."""
    state, config, stride_of = encoder.state_dict(), encoder.config, {}
    for group, count in enumerate(config.units):
        stride_of |= {sum(config.units[:group]) + index: 2 if index == 0 else 1 for index in range(count)}

    def norm(name, x):
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        factor = (state[f"{name}.weight"] / (variance + 1e-5).sqrt())[:, None, None]
        return (x - mean[:, None, None]) * factor + state[f"{name}.bias"][:, None, None]

    def prelu(name, x):
        return torch.where(x > 0, x, x * state[f"{name}.weight"][:, None, None])

    def conv(name, x, **settings):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **settings)

    x = prelu("input_layer.2", norm("input_layer.1", conv("input_layer.0", images, padding=1)))
    outputs = []
    for index, stride in stride_of.items():
        unit = f"body.{index}"
        y = conv(f"{unit}.res_layer.1", norm(f"{unit}.res_layer.0", x), padding=1)
        y = norm(
            f"{unit}.res_layer.4",
            conv(f"{unit}.res_layer.3", prelu(f"{unit}.res_layer.2", y), padding=1, stride=stride),
        )
        gate = conv(f"{unit}.res_layer.5.fc1", y.mean(dim=(2, 3), keepdim=True)).relu()
        y = y * conv(f"{unit}.res_layer.5.fc2", gate).sigmoid()
        if f"{unit}.shortcut_layer.0.weight" in state:
            x = norm(f"{unit}.shortcut_layer.1", conv(f"{unit}.shortcut_layer.0", x, stride=stride)) + y
        else:
            x = x[..., ::stride, ::stride] + y
        outputs.append(x)
    fine, medium, coarse = (outputs[sum(config.units[: group + 1]) - 1] for group in (1, 2, 3))
    up = {"mode": "bilinear", "align_corners": True}
    medium = F.interpolate(coarse, size=medium.shape[-2:], **up) + conv("latlayer1", medium)
    fine = F.interpolate(medium, size=fine.shape[-2:], **up) + conv("latlayer2", fine)
    styles = []
    for style in range(config.num_styles):
        x = coarse if style < config.heads[0] else medium if style < sum(config.heads[:2]) else fine
        layer = 0
        while x.shape[-1] > 1:
            x = F.leaky_relu(conv(f"styles.{style}.convs.{layer}", x, stride=2, padding=1), 0.01)
            layer += 2
        weight = state[f"styles.{style}.linear.weight"] / config.head_channels**0.5
        styles.append(F.linear(x.flatten(1), weight, state[f"styles.{style}.linear.bias"]))
    return torch.stack([styles[0], *(styles[0] + style for style in styles[1:])], dim=1)


def largest_error(values, reference):
    return float((values.float() - reference).abs().max() / reference.abs().max())


@pytest.fixture(scope="module")
def encoder():
    return randomised(SMALL)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_the_arithmetic(encoder, batch, layout, device):
    encoder, images = copy.deepcopy(encoder).to(device), crops(batch).to(device)
    with torch.no_grad():
        assert largest_error(encoder(images.contiguous(memory_format=layout)), written_out(encoder, images)) < 1e-5


def test_gradients_change_nothing(encoder):
    images = crops().requires_grad_()
    offsets = encoder(images)
    offsets.sum().backward()
    assert images.grad.any()
    with torch.inference_mode():
        assert largest_error(offsets.detach(), encoder(images)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype, encoder, device):
    half = copy.deepcopy(encoder).to(device, dtype)
    with torch.no_grad():
        rough, exact = half(crops().to(device, dtype)).cpu(), encoder(crops())
    assert rough.dtype == dtype
    cosine = F.cosine_similarity(rough.float(), exact, dim=-1)
    assert float(cosine.min()) > 0.999


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same(encoder):
    with torch.no_grad():
        compiled = torch.compile(encoder, backend="eager", fullgraph=True)
        assert largest_error(compiled(crops()), encoder(crops())) < 1e-5
