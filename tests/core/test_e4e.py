"""The encoder: published layout, which head reads which map, offsets, inference and its twin, wrong inputs."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

from pidiff_core.e4e import inference
from pidiff_core.e4e import winograd as winograd_module
from pidiff_core.e4e.config import PRESETS, EncoderConfig, heads_for
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.e4e.winograd import STRIDE_1, STRIDE_2, Scheme
from pidiff_core.e4e.workspace import KEPT_BYTES, Workspace
from pidiff_core.errors import PIDiffError

SMALL = EncoderConfig(
    image_size=32,
    num_styles=6,
    width=5,
    stem_channels=4,
    units=(1, 2, 1, 1),
    depths=(4, 6, 8, 8),
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


@pytest.fixture(scope="module")
def wide():
    """Wide enough, and its maps large enough, for both of Winograd's schemes; batch norms that do something."""
    torch.manual_seed(0)
    encoder = E4eEncoder(
        EncoderConfig(
            image_size=128,
            num_styles=3,
            width=16,
            stem_channels=8,
            units=(1, 2, 2, 1),
            depths=(16, 256, 256, 256),
            head_channels=24,
            heads=(1, 1, 1),
        )
    )
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
        for _ in range(3):
            encoder(torch.randn(4, 3, 128, 128))
    return encoder.eval()


def largest_error(values, reference):
    return float((values.float() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("make", ["small", "wide"])
def test_inference_equals_its_readable_twin(make, batch, wide):
    encoder = small_encoder() if make == "small" else wide
    images = crops(batch, size=encoder.config.image_size)
    with torch.no_grad():
        assert largest_error(encoder(images), encoder.plain(images)) < 1e-5


def test_winograds_way_is_taken_where_it_pays(wide, monkeypatch):
    taken = []
    convolve = Scheme.convolve
    monkeypatch.setattr(Scheme, "convolve", lambda scheme, *a, **k: taken.append(scheme) or convolve(scheme, *a, **k))
    with torch.no_grad():
        wide(crops(4, size=128))
        assert {id(scheme) for scheme in taken} == {id(STRIDE_1), id(STRIDE_2)}
        taken.clear()
        small_encoder()(crops(4))
        copy.deepcopy(wide).bfloat16()(crops(4, size=128).bfloat16())
    wide(crops(4, size=128))  # with gradients
    assert not taken


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inference_in_half_precision_stays_near(dtype, wide):
    half = copy.deepcopy(wide).to(dtype)
    with torch.no_grad():
        rough, exact = half(crops(2, size=128).to(dtype)), wide(crops(2, size=128))
    assert rough.dtype == dtype
    cosine = torch.nn.functional.cosine_similarity(rough.float(), exact, dim=-1)
    assert float(cosine.min()) > 0.999


def test_inference_follows_the_weights():
    """Nothing is kept from an earlier call: not over a change of weights, of their type, or over training."""
    encoder, other = small_encoder(), small_encoder(seed=5)
    images = crops()
    with torch.no_grad():
        encoder(images)
        encoder.load_state_dict(other.state_dict())
        assert torch.equal(encoder(images), other(images))
        encoder.double()
        assert largest_error(encoder(images.double()), other(images)) < 1e-5
        encoder.float().train()(images)
        encoder.eval()
        assert largest_error(encoder(images), encoder.plain(images)) < 1e-5
    assert encoder.state_dict().keys() == other.state_dict().keys()


def test_gradients_reach_the_picture_in_evaluation_mode():
    images = crops().requires_grad_()
    small_encoder()(images).sum().backward()
    assert images.grad.any()


def winograd(scheme, x, weight):
    workspace = Workspace()
    batch, channels, height, width = x.shape
    padded, inside = scheme.padded(batch, height, width, channels, workspace=workspace)
    inside.copy_(x)
    points = scheme.points(padded, workspace=workspace)
    return scheme.convolve(points, weight, batch=batch, height=height // scheme.stride, workspace=workspace)


@pytest.mark.parametrize(
    ("scheme", "stride", "size"),
    [(STRIDE_1, 1, (8, 12)), (STRIDE_1, 1, (4, 2)), (STRIDE_2, 2, (8, 12)), (STRIDE_2, 2, (4, 4))],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_winograds_convolution_equals_torchs(scheme, stride, size, batch):
    torch.manual_seed(0)
    x, weight = torch.randn(batch, 6, *size), torch.randn(5, 6, 3, 3)
    expected = torch.nn.functional.conv2d(x, weight, stride=stride, padding=1)
    assert largest_error(winograd(scheme, x, weight), expected) < 1e-5


@pytest.mark.parametrize("large", [1, 1 << 30], ids=["one by one", "as a batch"])
def test_both_ways_to_multiply_give_the_same(large, monkeypatch):
    monkeypatch.setattr(winograd_module, "LARGE_PRODUCT", large)
    torch.manual_seed(0)
    x, weight = torch.randn(1, 6, 8, 8), torch.randn(5, 6, 3, 3)
    expected = torch.nn.functional.conv2d(x, weight, stride=2, padding=1)
    assert largest_error(winograd(STRIDE_2, x, weight), expected) < 1e-5


def test_winograds_rounding_is_a_convolutions_own():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 256, 16, 16), torch.randn(64, 256, 3, 3)
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
    y = winograd(STRIDE_1, x, weight)
    assert float((y - exact).abs().max() / exact.abs().max()) < 4e-6


def test_results_do_not_lie_in_the_workspace(wide):
    workspace = Workspace()
    torch.manual_seed(0)
    with torch.inference_mode():
        mapped = inference.unit(wide.body[2], torch.randn(4, 256, 32, 32), workspace=workspace)
        styles = inference.heads([wide.styles[2]], torch.randn(4, 256, 32, 32), workspace=workspace)
    mine = {buffer.untyped_storage().data_ptr() for buffer in workspace._buffers.values()}
    assert len(mine) == 3
    assert not mine & {result.untyped_storage().data_ptr() for result in (mapped, *styles)}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_compiled_encoder_gives_the_same(batch):
    encoder = small_encoder()
    with torch.no_grad():
        compiled = torch.compile(encoder, backend="eager")
        assert largest_error(compiled(crops(batch)), encoder.plain(crops(batch))) < 1e-5


def test_the_workspace_keeps_what_is_small():
    workspace = Workspace()
    small = workspace.take("a", 4, 5)
    assert small.data_ptr() == workspace.take("a", 3).data_ptr() != workspace.take("b", 3).data_ptr()
    large = KEPT_BYTES // 4 + 1
    assert workspace.take("a", large).data_ptr() != workspace.take("a", 3).data_ptr() == small.data_ptr()


def test_the_workspace_has_its_own_type_and_place():
    with torch.device("meta"):
        taken = Workspace().take("a", 4)
    assert (taken.dtype, taken.device.type) == (torch.float32, "cpu")


def test_the_workspace_serves_every_mode_and_each_thread_its_own():
    workspace = Workspace()
    with torch.inference_mode():
        mine = workspace.take("a", 3)
    mine.zero_()
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(workspace.take("a", 3)))
    thread.start()
    thread.join()
    assert theirs[0].data_ptr() != mine.data_ptr()
    assert copy.deepcopy(workspace).take("a", 3).data_ptr() != mine.data_ptr()


def test_maps_that_cannot_be_cut_into_tiles_have_none():
    assert STRIDE_1.tiles(8, 12) == 12
    assert STRIDE_1.tiles(6, 12) == STRIDE_1.tiles(8, 11) == STRIDE_2.tiles(6, 8) == 0
