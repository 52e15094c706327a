"""From a single-file checkpoint through one optimiser step of each stage to ComfyUI: the exported adapter gives there
what the trainer predicted."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="training is the optional extra `train`")
pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from safetensors.torch import save_file
from torch import Tensor

from pidiff_core.training.bases import TextCondition, load_base
from pidiff_core.training.export import export_adapter, write_adapter
from pidiff_core.training.loop import LoopConfig
from pidiff_core.training.stages import AdapterOptions, new_adapter, train_stage
from pidiff_core.training.strategy import IdentityTraining, StrategyConfig, noised
from pidiff_core.wplus.codes import WPlusSpace
from tests.nodes.small_unets import LAYOUT, POOLED, SDXL, fill
from tests.parity.seeded import normal

pytestmark = pytest.mark.parity
TOLERANCE = 1e-3  # maximum error, relative to the largest expected value
SPACE = WPlusSpace("ffhq-1024", 18, 512)
TIME, SIDE = 500, 32
FULL_SD15 = {
    **LAYOUT, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False,
}  # fmt: skip
CASES = {"full SD 1.5": ("SD15", FULL_SD15), "narrow SDXL": ("SDXL", SDXL)}


@dataclass
class OnePhoto:
    """Prepared data of one photo of `SIDE` latents a side."""

    width: int
    pooled: int | None

    space = SPACE
    latent_avg, code_std = torch.zeros(18, 512), torch.ones(18, 512)

    @property
    def null_text(self) -> TextCondition:
        return TextCondition(
            torch.zeros(1, 77, self.width), None if self.pooled is None else torch.zeros(1, self.pooled)
        )

    def batch(self, step: int, size: int, **_: Any) -> SimpleNamespace:
        mask = torch.zeros(1, 1, SIDE, SIDE)
        mask[..., 8:24, 8:24] = 1
        return SimpleNamespace(
            latents=normal("clean", (1, 4, SIDE, SIDE)), context=normal("context", (1, 77, self.width)),
            pooled=None if self.pooled is None else normal("pooled", (1, self.pooled)), size_conditions=SIZES,
            face_mask=mask, codes=normal("codes", (1, 18, 512)), other_codes=normal("other", (1, 18, 512)),
            files=["one.png"],
        )  # fmt: skip


SIZES = torch.tensor([[8.0 * SIDE, 8.0 * SIDE, 16.0, 0.0, 8.0 * SIDE, 8.0 * SIDE]])


def host_network(case: str) -> Any:
    """ComfyUI's own UNet, unfilled, on the meta device."""
    import comfy.supported_models

    kind, layout = CASES[case]
    config = getattr(comfy.supported_models, kind)(dict(layout))
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device="meta")


def in_comfyui(model: Any, noisy: Tensor, photo: SimpleNamespace) -> Tensor:
    """The noise that one step of ComfyUI's sampler takes away."""
    import comfy.samplers

    sigma = float(model.get_model_object("model_sampling").sigmas[TIME])
    options = {}
    if photo.pooled is not None:
        height, width, top, left, target_height, target_width = (int(one) for one in photo.size_conditions[0])
        options = {
            "pooled_output": photo.pooled, "height": height, "width": width, "crop_h": top, "crop_w": left,
            "target_height": target_height, "target_width": target_width,
        }  # fmt: skip
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[photo.context, options]], [[torch.zeros_like(photo.context), options]])
    guider.set_cfg(1.0)
    scaled = noisy * (sigma**2 + 1) ** 0.5  # the UNet sees x / sqrt(sigma^2 + 1)
    result = guider.sample(
        scaled / sigma, torch.zeros_like(scaled), comfy.samplers.sampler_object("euler"), torch.tensor([sigma, 0.0]),
        disable_pbar=True,
    )  # fmt: skip
    return (scaled - model.model.process_latent_in(result)) / sigma


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full SD 1.5", "narrow SDXL"])
def test_one_step_of_each_stage_and_the_exported_adapter_in_comfyui(comfy, pack, tmp_path, case):
    import comfy.model_patcher

    network = host_network(case)
    network.diffusion_model.to_empty(device="cpu")
    fill(network.diffusion_model, seed=0)
    weights = network.diffusion_model.state_dict()
    state = {f"model.diffusion_model.{key}": value.half() for key, value in weights.items()}
    save_file(state, tmp_path / "base.safetensors")
    del network, weights, state
    gc.collect()

    base = load_base(tmp_path / "base.safetensors")
    assert base.family == ("sdxl" if "SDXL" in case else "sd15")
    data = OnePhoto(base.context_width, POOLED if base.family == "sdxl" else None)
    adapter = new_adapter(base, data, AdapterOptions(mixer_layers=0), seed=0)
    untrained = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    frozen = {name: float(tensor.double().sum()) for name, tensor in base.unet.state_dict().items()}
    strategy = StrategyConfig(drop_identity=0, drop_text=0, drop_both=0)
    for stage in ("extract", "localise"):
        before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
        loop = LoopConfig(
            steps=1, learning_rate=3e-2, warmup_steps=0, final_rate=1.0, ema_decay=0.0, precision="fp32", log_every=1,
            compiled=False,
        )  # fmt: skip
        folder = tmp_path / stage
        assert train_stage(base, adapter, data, stage=stage, size=1, strategy=strategy, loop=loop, folder=folder)
        after = adapter.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert any(name.startswith("sites") for name in changed)
        assert any(name.startswith("projection") for name in changed) is (stage == "extract")
        assert all(tensor.isfinite().all() for tensor in after.values())
    assert set(untrained) == set(adapter.state_dict())
    assert frozen == {name: float(tensor.double().sum()) for name, tensor in base.unet.state_dict().items()}

    photo = data.batch(0, 1)
    times = torch.tensor([TIME])
    noisy, _ = noised(
        photo.latents, normal("noise", photo.latents.shape), timesteps=times, alphas_cumprod=base.alphas_cumprod,
        prediction="epsilon",
    )  # fmt: skip
    module = IdentityTraining(
        base.unet, adapter, stage="localise", config=strategy, prediction="epsilon", alphas_cumprod=base.alphas_cumprod
    )
    more = {} if photo.pooled is None else {"pooled": photo.pooled, "size_conditions": photo.size_conditions}
    with torch.no_grad():
        plain = base.predict(noisy, times, context=photo.context, **more)
        with module.binding.identity(adapter.projection(photo.codes)):
            expected = base.predict(noisy, times, context=photo.context, **more)
    run_file, out = tmp_path / "adapter.safetensors", tmp_path / "export.safetensors"
    write_adapter(run_file, adapter, space=SPACE, latent_avg=data.latent_avg, card={"family": base.family})
    export_adapter(run_file, out, own={}, half=False)
    del module, base
    gc.collect()

    network = host_network(case)
    stored = {key.removeprefix("model.diffusion_model."): value for key, value in _float_weights(tmp_path).items()}
    network.diffusion_model.load_state_dict(stored, strict=True, assign=True)
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)
    file = pack.load("pidiff_core.files.adapters").load_adapter(out)
    apply, wplus = pack.load("nodes.unet.apply"), pack.load("pidiff_core.wplus.codes")
    codes = wplus.WPlus(photo.codes, torch.zeros(18, 512), file.space)
    patched = apply.apply_identity(model, file.adapter, codes, options=apply.ApplyOptions())

    def error(found: Tensor, wanted: Tensor) -> float:
        return ((found - wanted).abs().max() / wanted.abs().max()).item()

    without, found = in_comfyui(model, noisy, photo), in_comfyui(patched, noisy, photo)
    print(f"{case}: bare {error(without, plain):.1e}, with the identity {error(found, expected):.1e}, "
          f"the identity's share {error(plain, expected):.1e}")  # fmt: skip
    assert error(without, plain) <= TOLERANCE
    assert error(found, expected) <= TOLERANCE
    assert error(plain, expected) > 10 * TOLERANCE, "the identity acts"


def _float_weights(folder: Any) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {key: value.float() for key, value in load_file(folder / "base.safetensors").items()}
