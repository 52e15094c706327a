"""The terms of the identity-tailored fine-tuning, and what each stage trains."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from diffusers import UNet2DConditionModel

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.diffusers_processor import cross_attention_sites
from pidiff_core.training.losses import (
    disentanglement_loss,
    face_noise_loss,
    kept_background_loss,
    localisation_loss,
)
from pidiff_core.training.strategy import IdentityTraining, StrategyConfig, strategy_loss

MASK = torch.zeros(2, 1, 8, 8)
MASK[:, :, 2:6, 2:6] = 1


def test_terms_look_only_where_they_should():
    inside, outside = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    inside[..., 3, 3] = 1.0
    outside[..., 0, 0] = 1.0
    zero = torch.zeros_like(inside)
    for term in (kept_background_loss, disentanglement_loss):
        assert term(inside, zero, mask=MASK) == 0
        assert term(outside, zero, mask=MASK) > 0
    assert face_noise_loss(outside, zero, mask=MASK, outside=0.0) == 0
    assert face_noise_loss(inside, zero, mask=MASK, outside=0.0) == pytest.approx(1 / 16)


def test_an_empty_mask_gives_no_nan():
    assert face_noise_loss(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), mask=MASK[:1] * 0, outside=0.0) == 0


def test_localisation_is_least_where_the_map_is_the_mask():
    right = MASK.flatten(1)
    assert localisation_loss({"a": right}, mask=MASK) < 1e-3
    assert localisation_loss({"a": 1 - right}, mask=MASK) > 1
    coarse = torch.nn.functional.avg_pool2d(MASK, 2).flatten(1)
    assert localisation_loss({"a": coarse}, mask=MASK) < 1e-3


@pytest.fixture
def training():
    def make(stage: str, **weights: float) -> IdentityTraining:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        config = AdapterConfig(sites=cross_attention_sites(unet), num_styles=10, code_width=12, token_width=16)
        return IdentityTraining(unet, IdentityAdapter(config), config=StrategyConfig(stage, exchanged=1, **weights))

    return make


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "noisy": torch.randn(2, 4, 8, 8),
        "target": torch.randn(2, 4, 8, 8),
        "timesteps": torch.tensor([10, 500]),
        "context": torch.randn(2, 5, 16),
        "offsets": torch.randn(2, 10, 12),
        "mask": MASK,
    }


@pytest.mark.parametrize(("stage", "projection"), [("extract", True), ("localise", False)])
def test_what_each_stage_trains(training, stage, projection):
    module = training(stage)
    for branch in module.adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight, std=0.1)
    strategy_loss(module, inputs())["loss"].backward()
    assert all(parameter.grad is None for parameter in module.unet.parameters())
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(module.get_parameter(name).grad is not None for name in trained)
    assert any(name.startswith("adapter.projection") for name in trained) is projection
    assert any(name.startswith("adapter.sites") for name in trained)


def test_an_untrained_adapter_changes_nothing_outside(training):
    values = strategy_loss(training("localise"), inputs())
    rounding = 1e-12  # squared differences between the same picture in a small and in a larger batch
    assert values["kept"] < rounding
    assert values["apart"] < rounding
    assert values["noise"] > 0


def test_training_localises_the_identity(training):
    module = training("localise", localisation=1.0)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 3e-2)
    batch = inputs()
    first = strategy_loss(module, batch)
    for _ in range(30):
        values = strategy_loss(module, batch)
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
    assert values["where"] < 0.9 * first["where"]
    assert values["noise"] < first["noise"]
