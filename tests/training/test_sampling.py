"""The sampler of the trainer's grids and evaluations: the same pictures on every device and in half precision."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.training.bases.base import TextCondition
from pidiff_core.training.diffusers_processor import attach_identity, cross_attention_sites
from pidiff_core.training.sampling import sample
from tests.training.small_run import small_base


def drawn(device: torch.device, dtype: torch.dtype, *, strength: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures and their maps; the adapter is in float32 as while training."""
    base = small_base()
    base.unet.to(device, dtype)
    base.decode_latents = lambda latents: latents[:, :3].float()
    sites = cross_attention_sites(base.unet)
    torch.manual_seed(1)
    adapter = IdentityAdapter(AdapterConfig(sites=sites, num_styles=10, code_width=12, token_width=16, query="text"))
    for branch in adapter.sites.values():
        torch.nn.init.normal_(branch.to_v.weight)
    adapter.to(device)
    text = TextCondition(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2)))
    with torch.no_grad():
        tokens = adapter.projection(torch.randn(2, 10, 12, generator=torch.Generator().manual_seed(3)).to(device))
        images, maps = sample(
            base, attach_identity(base.unet, adapter), tokens=tokens, text=text, strength=strength, steps=3,
            null_text=TextCondition(torch.zeros(1, 5, 16)), size_px=(64, 48), seeds=[4, 5],
        )  # fmt: skip
    assert maps is not None
    return images, maps.float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_the_same_pictures_and_maps(device, dtype, tolerance):
    exact_images, exact_maps = drawn(torch.device("cpu"), torch.float32)
    without, _ = drawn(torch.device("cpu"), torch.float32, strength=0.0)
    images, maps = drawn(device, dtype)
    assert images.shape == (2, 8, 6, 3)
    assert images.device.type == maps.device.type == "cpu"
    scale = exact_images.std()
    assert (images - exact_images).abs().max() < tolerance * scale
    assert (without - exact_images).abs().max() > 0.2 * scale
    torch.testing.assert_close(maps, exact_maps, rtol=0, atol=tolerance)
