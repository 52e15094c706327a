"""The PIDiff model: codes in, portraits out, and what happens where a part is missing."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError
from pidiff_core.model import PIDiffModel
from pidiff_core.pipeline import decode, encode
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator
from pidiff_core.wplus.codes import WPlus, WPlusSpace

SPACE = WPlusSpace("test", 8, 6)
ENCODER = EncoderConfig(
    image_size=32, num_styles=8, width=6, stem_channels=4, depths=(4, 4, 6, 6), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 2, 4), se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(size=32, width=6, z_dim=6, mapping_layers=1, channels=(4, 4, 4, 4))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PIDiffModel(
        SPACE,
        torch.randn(8, 6),
        encoder=E4eEncoder(ENCODER),
        generator=Generator(GENERATOR),
        crop_size=32,
        source="tiny",
    )


def test_codes_are_the_encoders_offsets_plus_the_average(model):
    crops = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = model.encoder(crops) + model.latent_avg
    wplus = encode(model, crops, source="test")
    torch.testing.assert_close(wplus.codes, expected)
    assert wplus.source == "test"


def test_a_code_does_not_depend_on_its_neighbours():
    wide = EncoderConfig(**{**ENCODER.to_dict(), "depths": (8, 32, 128, 128), "head_channels": 128})
    torch.manual_seed(0)
    wide_model = PIDiffModel(SPACE, torch.randn(8, 6), encoder=E4eEncoder(wide), crop_size=32)
    crops = torch.rand(5, 3, 40, 40) * 2 - 1
    together = encode(wide_model, crops).codes
    assert torch.equal(together, torch.cat([encode(wide_model, crop).codes for crop in crops.split(1)]))


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(torch.float16, "fp32 or bf16"), (torch.float32, "Choose another file for the encoder")]
)
def test_an_encoder_that_overflows_names_the_remedy(model, dtype, remedy):
    loud = PIDiffModel(SPACE, model.latent_avg, encoder=E4eEncoder(ENCODER), crop_size=32, source="loud.pt")
    with torch.no_grad():
        for head in loud.encoder.styles:
            head.linear.bias.fill_(0.9 * torch.finfo(dtype).max)  # every style is the first one's plus its own
    loud.encoder.to(dtype)
    with pytest.raises(PIDiffError, match=rf"'loud\.pt' gave .* not finite in {dtype}\. .*{remedy}"):
        encode(loud, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("size", [16, 64, 100])
def test_crops_of_any_size_are_resized(model, size):
    assert encode(model, torch.zeros(1, 3, size, size)).codes.shape == (1, 8, 6)


def test_portraits_come_in_comfyuis_layout_and_the_same_every_time(model):
    wplus = WPlus(torch.randn(3, 8, 6), model.latent_avg, SPACE)
    portraits = decode(model, wplus)
    assert portraits.shape == (3, 32, 32, 3)
    assert 0.0 <= float(portraits.min()) <= float(portraits.max()) <= 1.0
    assert torch.equal(portraits, decode(model, wplus))
    torch.testing.assert_close(portraits[1:2], decode(model, wplus.select(1)))


def test_networks_are_in_evaluation_mode():
    made = PIDiffModel(SPACE, torch.zeros(8, 6), encoder=E4eEncoder(ENCODER).train())
    assert not made.encoder.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_give_float32_codes_and_pictures(model, dtype):
    rough = PIDiffModel(
        SPACE,
        model.latent_avg,
        encoder=E4eEncoder(ENCODER).to(dtype),
        generator=Generator(GENERATOR).to(dtype),
        crop_size=32,
    )
    rough.encoder.load_state_dict(model.encoder.state_dict())
    rough.generator.load_state_dict(model.generator.state_dict())
    crops = torch.rand(1, 3, 32, 32) * 2 - 1
    wplus = encode(rough, crops)
    assert wplus.codes.dtype == torch.float32
    torch.testing.assert_close(wplus.codes, encode(model, crops).codes, atol=0.05, rtol=0.05)
    assert float((decode(rough, wplus) - decode(model, wplus)).abs().mean()) < 0.03


def test_missing_parts_are_named():
    bare = PIDiffModel(SPACE, torch.zeros(8, 6), source="bare.safetensors")
    with pytest.raises(PIDiffError, match=r"bare\.safetensors.* no encoder.*read codes"):
        encode(bare, torch.zeros(1, 3, 32, 32))
    with pytest.raises(PIDiffError, match=r"no generator.*portrait"):
        decode(bare, WPlus(torch.zeros(1, 8, 6), torch.zeros(8, 6), SPACE))


def test_codes_of_another_space_are_refused(model):
    with pytest.raises(PIDiffError, match="belong to other"):
        decode(model, WPlus(torch.zeros(1, 8, 6), torch.zeros(8, 6), WPlusSpace("other", 8, 6)))


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (torch.zeros(1, 3, 32, 16), "square, but it is 16x32"),
        (torch.full((1, 3, 32, 32), torch.nan), "not finite"),
        (torch.zeros(1, 1, 32, 32), r"\(B 3 H W\)"),
    ],
)
def test_bad_crops_are_refused(model, crops, message):
    with pytest.raises(PIDiffError, match=message):
        encode(model, crops)


def test_an_average_of_another_space_is_refused():
    with pytest.raises(PIDiffError, match=r"\(8 6\)"):
        PIDiffModel(SPACE, torch.zeros(18, 512))
