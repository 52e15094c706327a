"""ComfyUI's own classes around mini's weights compute what the training classes compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the training classes are the reference here (extra `train`)")
pytest.importorskip("transformers", reason="the training classes are the reference here (extra `train`)")

CAPTION = "a photo of a person in the forest wearing a red shirt, smiling"


@pytest.fixture(scope="module")
def host(comfy, pack, tmp_path_factory):
    """The training classes with random weights, and ComfyUI's objects built from what they export."""
    folder = tmp_path_factory.mktemp("bundle")
    base_module, bundle = pack.load("pidiff_core.mini.base"), pack.load("pidiff_core.mini.bundle")
    autoencoder_module = pack.load("pidiff_core.mini.autoencoder")
    torch.manual_seed(0)
    base, autoencoder = base_module.MiniBase().eval(), autoencoder_module.MiniAutoencoder().eval()
    torch.nn.init.normal_(base.unet.conv_out.weight, std=0.05)
    autoencoder.normalise.running_mean.copy_(torch.tensor([0.3, -0.2, 0.1, 0.5]))
    autoencoder.normalise.running_var.copy_(torch.tensor([2.0, 0.5, 1.5, 3.0]))
    for network in (base, autoencoder):  # what is stored is fp16
        network.load_state_dict(
            {k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in network.state_dict().items()}
        )
    bundle.save_base(folder, base, autoencoder, latent_rgb=torch.zeros(4, 3), notes={})
    tensors, config = bundle.load_base(folder)
    built = pack.load("nodes.mini_host")
    return {
        "base": base,
        "autoencoder": autoencoder,
        "token_ids": base_module.token_ids,
        "model": built.build_model(tensors, config),
        "clip": built.build_clip(tensors, config),
        "vae": built.build_vae(tensors, config),
    }


@torch.no_grad()
def test_the_text_encoder_is_the_same(host):
    expected = host["base"].context(host["token_ids"]([CAPTION]))
    found, _ = host["clip"].encode_from_tokens(host["clip"].tokenize(CAPTION), return_pooled=True)
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_unet_predicts_the_same_velocity(host):
    model = host["model"].model
    x, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([10, 700])
    context = host["base"].context(host["token_ids"]([CAPTION, ""]))
    expected = host["base"](x, timesteps, context)
    found = model.diffusion_model(x, timesteps, context=context, transformer_options={})
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=1e-3)
    assert model.model_type.name == "V_PREDICTION"


@torch.no_grad()
def test_the_autoencoder_speaks_unscaled_latents(host):
    image_bhwc = torch.from_numpy(np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32))
    images = image_bhwc.movedim(-1, 1) * 2 - 1
    normalised = host["autoencoder"].encode(images)
    latents = host["vae"].encode(image_bhwc)
    assert latents.shape == (1, 4, 16, 16)
    # The folded 1x1 convolution is stored in fp16.
    torch.testing.assert_close(latents.float() * 0.18215, normalised, atol=5e-3, rtol=5e-3)
    decoded = host["vae"].decode(normalised / 0.18215).movedim(-1, 1)
    expected = (host["autoencoder"].decode(normalised) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, expected, atol=5e-3, rtol=5e-3)
