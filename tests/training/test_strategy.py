"""The terms of the identity-tailored fine-tuning, and what each stage trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from diffusers import UNet2DConditionModel

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.errors import PIDiffError
from pidiff_core.training.bases.base import TextCondition, schedule
from pidiff_core.training.batches import BatchMaker
from pidiff_core.training.diffusers_processor import cross_attention_sites
from pidiff_core.training.loop import Share
from pidiff_core.training.losses import (
    disentanglement_loss,
    face_noise_loss,
    kept_background_loss,
    localisation_loss,
    min_snr_weights,
)
from pidiff_core.training.strategy import IdentityTraining, StrategyConfig, noised, strategy_loss

MASK = torch.zeros(2, 1, 8, 8)
MASK[:, :, 2:6, 2:6] = 1


def test_terms_look_only_where_they_should():
    inside, outside = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    inside[..., 3, 3] = 1.0
    outside[..., 0, 0] = 1.0
    zero = torch.zeros_like(inside)
    for term in (kept_background_loss, disentanglement_loss):
        assert term(inside, zero, mask=MASK).tolist() == [0, 0]
        assert term(outside, zero, mask=MASK).tolist() == pytest.approx([1 / 48] * 2)
    assert face_noise_loss(outside, zero, mask=MASK, outside=0.0).tolist() == [0, 0]
    assert face_noise_loss(inside, zero, mask=MASK, outside=0.0).tolist() == pytest.approx([1 / 16] * 2)


def test_an_empty_mask_gives_no_nan():
    assert face_noise_loss(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), mask=MASK[:1] * 0, outside=0.0) == 0


def test_localisation_is_least_where_the_map_is_the_mask():
    right = MASK.flatten(1)
    assert localisation_loss({"a": right}, mask=MASK).max() < 1e-3
    assert localisation_loss({"a": 1 - right}, mask=MASK).min() > 1
    coarse = torch.nn.functional.avg_pool2d(MASK, 2).flatten(1)
    assert localisation_loss({"a": coarse}, mask=MASK).max() < 1e-3
    wide = torch.cat([MASK, MASK], dim=-1)
    assert localisation_loss({"a": torch.nn.functional.avg_pool2d(wide, 2).flatten(1)}, mask=wide).max() < 1e-3


def test_min_snr_weights_are_the_papers():
    alphas = torch.tensor([0.99, 0.5, 0.01])
    times = torch.tensor([0, 1, 2])
    assert min_snr_weights(alphas, times, gamma=5.0, prediction="epsilon").tolist() == pytest.approx(
        [5 / 99, 1, 1], rel=1e-4
    )
    v = min_snr_weights(alphas, times, gamma=5.0, prediction="v").tolist()
    assert v == pytest.approx([5 / 100, 1 / 2, (1 / 99) / (1 + 1 / 99)], rel=1e-4)


def test_what_the_base_should_predict():
    alphas, times = torch.tensor([1.0, 0.64]), torch.tensor([1])
    clean, noise = torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), -1.0)
    noisy, target = noised(clean, noise, timesteps=times, alphas_cumprod=alphas, prediction="epsilon")
    assert torch.allclose(noisy, torch.tensor(0.8 * 2 - 0.6))
    assert torch.equal(target, noise)
    _, v = noised(clean, noise, timesteps=times, alphas_cumprod=alphas, prediction="v")
    assert torch.allclose(v, torch.tensor(0.8 * -1 - 0.6 * 2))


def make_training(stage: str, *, seed: int = 0, form: str = "pidiff", **weights: float) -> IdentityTraining:
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    sizes = {"num_styles": 10, "code_width": 12} if form == "pidiff" else {"num_styles": 18, "query": "text"}
    config = AdapterConfig(sites=cross_attention_sites(unet), token_width=16, format=form, **sizes)
    return IdentityTraining(
        unet,
        IdentityAdapter(config),
        stage=stage,
        config=StrategyConfig(**weights),
        prediction="epsilon",
        alphas_cumprod=schedule(),
    )


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "clean": normal(2, 4, 8, 8),
        "noise": normal(2, 4, 8, 8),
        "timesteps": torch.tensor([10, 500]),
        "context": normal(2, 5, 16),
        "codes": normal(2, 10, 12),
        "other_codes": normal(2, 10, 12),
        "extra_rows": torch.arange(2),
        "mask": MASK,
    }


def trained_branches(module: IdentityTraining) -> IdentityTraining:
    torch.manual_seed(3)
    for branch in module.adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight, std=0.1)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stage", "projection"), [("extract", True), ("localise", False)])
def test_what_each_stage_trains(stage, projection, dtype, device):
    """In bfloat16 as the trainer does on a GPU: the base in it, the adapter in float32, under autocast."""
    exact = strategy_loss(trained_branches(make_training(stage)), inputs())["loss"]
    module = trained_branches(make_training(stage))
    module.unet.to(dtype)
    module.to(device)
    module.binding.enable_gradient_checkpointing()
    batch = {name: tensor.to(device) for name, tensor in inputs().items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = strategy_loss(module, batch)["loss"]
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4 if dtype == torch.float32 else 0.03)
    loss.backward()
    assert all(parameter.grad is None for parameter in module.unet.parameters())
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(module.get_parameter(name).grad is not None for name in trained)
    assert any(name.startswith("adapter.projection") for name in trained) is projection
    assert any(name.startswith("adapter.sites") for name in trained)


def test_an_untrained_adapter_changes_nothing_outside():
    values = strategy_loss(make_training("localise"), inputs())
    rounding = 1e-12  # squared differences between the same picture in a small and in a larger batch
    assert values["kept"] < rounding
    assert values["apart"] < rounding
    assert values["noise"] > 0


def test_the_extra_terms_of_a_part_of_the_batch():
    batch = inputs()
    whole = strategy_loss(trained_branches(make_training("localise")), batch)
    module = trained_branches(make_training("localise", extra_fraction=0.5))
    halves = [strategy_loss(module, batch | {"extra_rows": torch.tensor([row])}) for row in range(2)]
    for term in ("kept", "apart"):
        assert whole[term] > 1e-6
        mean = sum(half[term].item() for half in halves) / 2
        assert mean == pytest.approx(whole[term].item(), rel=1e-4)
    none = strategy_loss(module, batch | {"extra_rows": torch.arange(0)})
    assert (none["kept"], none["apart"]) == (0, 0), "there, because every process reduces the same names"


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        module = trained_branches(make_training("localise"))
        if checkpointing:
            module.binding.enable_gradient_checkpointing()
        values = strategy_loss(module, inputs())
        values["loss"].backward()
        found.append([parameter.grad for parameter in module.parameters() if parameter.requires_grad])
    for plain, checkpointed in zip(*found):
        torch.testing.assert_close(plain, checkpointed)
        assert plain.abs().max() > 0


def test_an_adapter_in_wplus_adapters_format_trains_without_a_map():
    module = trained_branches(make_training("localise", form="wplus-adapter"))
    codes = torch.randn(2, 18, 512, generator=torch.Generator().manual_seed(2))
    values = strategy_loss(module, inputs() | {"codes": codes, "other_codes": codes.roll(1, 0)})
    assert set(values) == {"loss", "noise", "kept", "apart"}
    values["loss"].backward()
    assert all(branch.to_q.weight.grad.abs().max() > 0 for branch in module.adapter.sites.values())


def test_training_localises_the_identity():
    module = make_training("localise", localisation=1.0)
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


class FakePhotos:
    """Prepared data of one picture a row: row i of step s is filled with 100 s + i."""

    def __init__(self) -> None:
        self.latent_avg, self.code_std = torch.full((10, 12), 7.0), torch.full((10, 12), 2.0)
        self.null_text = TextCondition(torch.full((1, 5, 16), -1.0))

    def batch(self, step, size, *, seed, kind, rank, world, averaged, mirrored):
        rows = torch.arange(size).float()[rank * size // world : (rank + 1) * size // world] + 100 * step

        def filled(*shape: int) -> torch.Tensor:
            return rows.reshape(-1, *[1] * len(shape)).expand(-1, *shape).clone()

        return SimpleNamespace(
            latents=filled(4, 8, 8), context=filled(5, 16), pooled=None, size_conditions=None,
            face_mask=filled(1, 8, 8), codes=filled(10, 12), other_codes=filled(10, 12) + 0.5,
            files=[f"{int(row)}.png" for row in rows],
        )  # fmt: skip


def maker(stage="localise", form="pidiff", **config) -> BatchMaker:
    config = {"drop_identity": 0, "drop_text": 0, "drop_both": 0, "swapped_levels": 0} | config
    sites = (SiteSpec("middle.0.0", 32, 2),)
    adapter = AdapterConfig(sites=sites, num_styles=10, code_width=12, token_width=16)
    if form != "pidiff":
        adapter = AdapterConfig(sites=sites, format=form, query="text")
    return BatchMaker(FakePhotos(), stage, StrategyConfig(**config), adapter, size=8, seed=3)


@pytest.mark.parametrize("parts", [2, 4])
def test_shares_of_a_batch_are_the_batch(parts):
    make = maker(drop_identity=0.3, drop_text=0.3, code_jitter=0.5, noise_offset=0.1, extra_fraction=0.4)
    whole = make(5)
    shares = [make(5, Share(part, parts)) for part in range(parts)]
    for part, share in enumerate(shares):  # numbered within the share
        share["extra_rows"] += part * make.size // parts
    for name, tensor in whole.items():
        assert torch.equal(tensor, torch.cat([share[name] for share in shares])), name
    assert not torch.equal(whole["noise"], make(6)["noise"])


def test_what_is_dropped():
    make = maker(drop_identity=0.25, drop_text=0.25, drop_both=0.25)
    batches = [make(step) for step in range(1, 100)]
    no_identity = torch.cat([(batch["codes"] == 0).all(dim=(1, 2)) for batch in batches]).float()
    no_text = torch.cat([(batch["context"] == -1).all(dim=(1, 2)) for batch in batches]).float()
    assert no_identity.mean() == pytest.approx(0.5, abs=0.05)
    assert no_text.mean() == pytest.approx(0.5, abs=0.05)
    assert (no_identity * no_text).mean() == pytest.approx(0.25, abs=0.05)


def test_the_extra_terms_weigh_the_same_over_many_batches():
    make = maker(extra_fraction=0.3)
    rows = [make(step)["extra_rows"] for step in range(100)]
    assert sum(len(each) for each in rows) / 100 / make.size == pytest.approx(0.3, rel=0.02)
    assert all(torch.equal(each, each.unique()) for each in rows)


def test_exchanged_identities_keep_some_levels():
    make = maker(swapped_levels=1.0)
    batch = make(2)
    own = (batch["other_codes"] == batch["codes"]).all(dim=-1)  # (B, S)
    for level in (slice(0, 2), slice(2, 4), slice(4, 10)):
        assert ((own[:, level].sum(dim=1) == 0) | own[:, level].all(dim=1)).all()
    assert 0 < own.float().mean() < 1
    assert torch.equal(maker()(2)["other_codes"], batch["codes"] + 0.5)


def test_codes_as_each_format_reads_them():
    make = maker(form="wplus-adapter")
    assert torch.equal(make(1)["codes"][0], torch.full((10, 12), 107.0)), "absolute: the offset and the average"
    assert torch.equal(maker()(1)["codes"][0], torch.full((10, 12), 100.0))
    assert make.files(1)[:2] == ["100.png", "101.png"]
    assert "other_codes" not in maker("extract")(1)


@pytest.mark.parametrize(
    "config", [{"extra_fraction": 1.5}, {"outside": -1.0}, {"drop_text": 0.6, "drop_both": 0.6}, {"code_jitter": -1}]
)
def test_exception_for_what_cannot_be(config):
    with pytest.raises(PIDiffError, match=r"strategy\."):
        StrategyConfig(**config)
