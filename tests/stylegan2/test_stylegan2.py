"""The generator: published layout, arithmetic against a plain twin, noise, half precision, gradients."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pidiff_core.errors import PIDiffError
from pidiff_core.stylegan2.config import PRESETS, GeneratorConfig
from pidiff_core.stylegan2.generator import Generator
from pidiff_core.stylegan2.layers import EqualLinear, ModulatedConv, ToRGB

SMALL = GeneratorConfig(size=16, width=12, z_dim=7, mapping_layers=2, channels=(8, 6, 4))


def small_generator(seed=0):
    torch.manual_seed(seed)
    generator = Generator(SMALL).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight") or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return generator


def codes(batch=2, seed=1):
    return torch.randn(batch, SMALL.num_styles, SMALL.width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("preset", "num_styles", "parameters"),
    [("ffhq-1024", 18, 30_370_060), ("ffhq-512", 16, None), ("ffhq-256", 14, None), ("mini-64", 10, None)],
)
def test_presets_have_the_published_sizes(preset, num_styles, parameters):
    config = PRESETS[preset]
    with torch.device("meta"):
        generator = Generator(config)
        picture = generator.synthesis(torch.zeros(1, num_styles, config.width))
    assert config.num_styles == num_styles
    assert picture.shape == (1, 3, config.size, config.size)
    if parameters is not None:
        assert sum(parameter.numel() for parameter in generator.parameters()) == parameters


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("style.1.weight", (512, 512)),
        ("style.8.bias", (512,)),
        ("input.input", (1, 512, 4, 4)),
        ("conv1.conv.weight", (1, 512, 512, 3, 3)),
        ("conv1.conv.modulation.weight", (512, 512)),
        ("conv1.noise.weight", (1,)),
        ("conv1.activate.bias", (512,)),
        ("to_rgb1.conv.weight", (1, 3, 512, 1, 1)),
        ("to_rgb1.bias", (1, 3, 1, 1)),
        ("convs.0.conv.blur.kernel", (4, 4)),
        ("convs.8.conv.weight", (1, 256, 512, 3, 3)),
        ("convs.8.conv.modulation.bias", (512,)),
        ("convs.15.conv.weight", (1, 32, 32, 3, 3)),
        ("to_rgbs.7.conv.modulation.weight", (32, 512)),
        ("to_rgbs.7.upsample.kernel", (4, 4)),
        ("noises.noise_0", (1, 1, 4, 4)),
        ("noises.noise_16", (1, 1, 1024, 1024)),
    ],
)
def test_the_published_layout(key, shape):
    with torch.device("meta"):
        state = Generator(PRESETS["ffhq-1024"]).state_dict()
    assert tuple(state[key].shape) == shape


def test_the_published_layout_has_no_other_keys():
    with torch.device("meta"):
        keys = set(Generator(PRESETS["ffhq-1024"]).state_dict())
    conv = ["conv.weight", "conv.modulation.weight", "conv.modulation.bias", "noise.weight", "activate.bias"]
    rgb = ["bias", "conv.weight", "conv.modulation.weight", "conv.modulation.bias"]
    expected = {f"style.{i}.{part}" for i in range(1, 9) for part in ("weight", "bias")} | {"input.input"}
    expected |= {f"conv1.{part}" for part in conv} | {f"to_rgb1.{part}" for part in rgb}
    expected |= {f"convs.{i}.{part}" for i in range(16) for part in conv}
    expected |= {f"convs.{i}.conv.blur.kernel" for i in range(0, 16, 2)}
    expected |= {f"to_rgbs.{i}.{part}" for i in range(8) for part in [*rgb, "upsample.kernel"]}
    expected |= {f"noises.noise_{i}" for i in range(17)}
    assert keys == expected


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("upsample", [True, False])
def test_modulation_equals_a_kernel_of_its_own_for_every_sample(demodulate, upsample):
    """Equations 1 and 3 of the paper as they stand there, one sample after the other."""
    torch.manual_seed(0)
    layer = ModulatedConv(5, 4, kernel_size=3, width=6, demodulate=demodulate, upsample=upsample).double()
    x, style = torch.randn(3, 5, 8, 8).double(), torch.randn(3, 6).double()
    outputs = []
    for sample, scale in zip(x, layer.modulation(style)):
        weight = layer.weight[0] / (5 * 9) ** 0.5 * scale[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if upsample:
            y = F.conv_transpose2d(sample[None], weight.transpose(0, 1), stride=2)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).double() / 8
            kernel = torch.outer(taps, taps) * 4
            y = F.conv2d(F.pad(y, (1, 1, 1, 1)).transpose(0, 1), kernel[None, None]).transpose(0, 1)
        else:
            y = F.conv2d(sample[None], weight, padding=1)
        outputs.append(y)
    torch.testing.assert_close(layer(x, style), torch.cat(outputs), rtol=1e-5, atol=1e-6)


def test_equalised_linear_learns_slower_but_computes_the_same():
    layer = EqualLinear(4, 3, bias=1.0, lr_mul=0.01)
    x = torch.randn(2, 4)
    torch.testing.assert_close(layer(x), x @ layer.weight.T * 0.01 / 2 + 0.01)


def test_upsampling_the_picture_keeps_its_mean_colour():
    layer = ToRGB(2, width=3)
    skip = torch.full((1, 3, 8, 8), 0.5)
    layer.bias.data.zero_()
    picture = layer(torch.zeros(1, 2, 16, 16), torch.zeros(1, 3), skip)
    torch.testing.assert_close(picture[..., 3:-3, 3:-3], torch.full((1, 3, 10, 10), 0.5))


def test_initial_networks_are_sane():
    torch.manual_seed(0)
    generator = Generator(PRESETS["mini-64"])
    generator.requires_grad_(False)
    w = generator.mapping(torch.randn(64, 128))
    picture = generator.synthesis(w[:4, None].expand(-1, 10, -1), noise="random")
    assert 0.5 < float(w.std()) < 2.0
    assert 0.2 < float(picture.std()) < 3.0


def test_fixed_noise_gives_the_same_picture_and_a_batch_equals_its_singles(device):
    generator, batch = small_generator().to(device), codes().to(device)
    picture = generator.synthesis(batch)
    torch.testing.assert_close(picture.cpu(), small_generator().synthesis(codes()), rtol=1e-4, atol=1e-5)
    assert torch.equal(picture, generator.synthesis(batch))
    torch.testing.assert_close(picture[1:], generator.synthesis(batch[1:]), rtol=1e-4, atol=1e-5)


def test_random_noise_follows_its_own_generator(device):
    generator, batch = small_generator().to(device), codes().to(device)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = generator.synthesis(batch, noise="random", rng=torch.Generator().manual_seed(1))
    again = generator.synthesis(batch, noise="random", rng=torch.Generator().manual_seed(1))
    other = generator.synthesis(batch, noise="random", rng=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(generator.synthesis(batch, noise=None), generator.synthesis(batch))


def test_every_style_changes_the_picture():
    generator, batch = small_generator(), codes(1)
    picture = generator.synthesis(batch)
    for style in range(SMALL.num_styles):
        changed = batch.clone()
        changed[:, style] += 1.0
        assert not torch.equal(picture, generator.synthesis(changed)), style


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_half_precision_stays_finite_and_near(scale, device):
    generator = small_generator()
    half = Generator(SMALL).to(device).half()
    half.load_state_dict(generator.state_dict())
    with torch.no_grad():
        picture = generator.synthesis(codes() * scale)
        rough = half.synthesis(codes().half().to(device) * scale).cpu()
    assert rough.dtype == torch.float16
    assert rough.isfinite().all()
    assert float((picture - rough.float()).abs().max()) < 0.03 * float(picture.abs().max())


def test_gradients_reach_every_weight():
    generator = small_generator().train()
    w = generator.mapping(torch.randn(3, SMALL.z_dim))
    generator.synthesis(w[:, None].expand(-1, SMALL.num_styles, -1), noise="random").square().mean().backward()
    without = [name for name, weight in generator.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_the_average_is_one_code_for_all_styles():
    average = small_generator().average(256, rng=torch.Generator().manual_seed(0))
    assert average.shape == (SMALL.num_styles, SMALL.width)
    assert torch.equal(average[0], average[-1])


@pytest.mark.parametrize("shape", [(1, 5, 12), (1, 6, 11), (6, 12)])
def test_codes_of_another_space_are_refused(shape):
    with pytest.raises(PIDiffError, match=r"\(B 6 12\)"):
        small_generator().synthesis(torch.zeros(shape))


def test_an_unknown_noise_is_refused():
    with pytest.raises(PIDiffError, match="'fixed', 'random' or None"):
        small_generator().synthesis(codes(), noise="loud")


@pytest.mark.parametrize("fields", [{"size": 48}, {"size": 4}, {"size": 64}, {"channels": (1, 2)}])
def test_impossible_sizes_are_refused(fields):
    with pytest.raises(PIDiffError):
        GeneratorConfig(**fields)


def test_configurations_come_back_from_json():
    for config in PRESETS.values():
        assert GeneratorConfig.from_dict(config.to_dict()) == config
    with pytest.raises(PIDiffError, match="colour"):
        GeneratorConfig.from_dict({"colour": 1})


def test_maps_lie_channels_last_in_memory_all_the_way():
    generator, layouts = small_generator(), []
    for layer in (generator.conv1, *generator.convs):
        layer.register_forward_hook(
            lambda layer, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    with torch.no_grad():
        generator.synthesis(codes())
    assert layouts == [True] * 5


@pytest.mark.slow
def test_building_without_memory_draws_nothing_and_imports_nothing():
    """torch answers random numbers on the meta device with its symbolic mathematics, whose import takes a second."""
    program = (
        "import sys, torch\n"
        "from pidiff_core.e4e import config as e4e, encoder\n"
        "from pidiff_core.stylegan2 import config as stylegan2, generator\n"
        "before, state = set(sys.modules), torch.random.get_rng_state()\n"
        "with torch.device('meta'):\n"
        "    encoder.E4eEncoder(e4e.PRESETS['ffhq-1024'])\n"
        "    generator.Generator(stylegan2.PRESETS['ffhq-1024'])\n"
        "assert torch.equal(state, torch.random.get_rng_state())\n"
        "assert len(set(sys.modules) - before) < 20, sorted(set(sys.modules) - before)\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_a_synthesis_that_stops_early_is_the_shortened_copy(device):
    config = GeneratorConfig(size=32, width=16, z_dim=16, mapping_layers=1, channels=(12, 10, 8, 8))
    generator = Generator(config).eval()
    for parameter in generator.parameters():  # strengths of the noise and biases begin at 0
        parameter.data.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    codes = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))
    on_device = copy.deepcopy(generator).to(device)
    short = on_device.shortened(16)
    assert short.config.num_styles == 6
    assert {tensor.device.type for tensor in short.state_dict().values()} == {"cpu"}
    with torch.no_grad():
        stopped = generator.synthesis(codes, size_px=16)
        assert stopped.shape == (2, 3, 16, 16)
        assert torch.equal(short.synthesis(codes[:, :6]), stopped)
        assert torch.equal(generator.shortened(1024).synthesis(codes), generator.synthesis(codes))
    assert not {tensor.data_ptr() for tensor in short.state_dict().values()} & {
        tensor.data_ptr() for tensor in on_device.state_dict().values()
    }
