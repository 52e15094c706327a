"""ComfyUI's own classes around mini's weights compute what the training classes compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the training classes are the reference here (extra `train`)")
pytest.importorskip("transformers", reason="the training classes are the reference here (extra `train`)")

from drawn_world.autoencoder import LATENT_CHANNELS, MiniAutoencoder
from drawn_world.base import MiniBase, token_ids
from drawn_world.bundle import save_base

CAPTION = "a photo of a person in the forest wearing a red shirt, smiling, with long black hair"


@pytest.fixture(scope="module")
def host(comfy, pack, tmp_path_factory):
    """The training classes with random weights, and ComfyUI's objects built from what they export."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    base, autoencoder = MiniBase().eval(), MiniAutoencoder().eval()
    torch.nn.init.normal_(base.unet.conv_out.weight, std=0.05)
    torch.nn.init.normal_(autoencoder.kl.encoder.conv_out.weight, std=0.05)  # zero at the start of the training
    torch.nn.init.normal_(autoencoder.kl.decoder.conv_out.weight, std=0.05)
    autoencoder.normalise.running_mean.copy_(torch.linspace(-0.3, 0.5, LATENT_CHANNELS))
    autoencoder.normalise.running_var.copy_(torch.linspace(0.5, 3.0, LATENT_CHANNELS))
    for network in (base, autoencoder):  # what is stored is fp16
        network.load_state_dict(
            {k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in network.state_dict().items()}
        )
    save_base(folder, base, autoencoder, latent_rgb=torch.zeros(LATENT_CHANNELS, 3), notes={})
    tensors, config = pack.load("pidiff_core.mini.bundle").load_base(folder)
    built = pack.load("nodes.host.mini_models")
    return {
        "base": base,
        "autoencoder": autoencoder,
        "token_ids": token_ids,
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
    x, timesteps = torch.randn(2, LATENT_CHANNELS, 16, 16), torch.tensor([10, 700])
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
    assert latents.shape == (1, LATENT_CHANNELS, 16, 16)
    # The folded 1x1 convolution is stored in fp16.
    torch.testing.assert_close(latents.float() * 0.18215, normalised, atol=5e-3, rtol=5e-3)
    decoded = host["vae"].decode(normalised / 0.18215).movedim(-1, 1)
    expected = (host["autoencoder"].decode(normalised) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, expected, atol=5e-3, rtol=5e-3)


def test_unknown_words_are_named_in_a_warning(host, caplog):
    tokens = host["clip"].tokenize("a photo of a wizard with a green beard, in the woods, and a Dragon")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ignores them: wizard, dragon." in caplog.text
    caplog.clear()
    assert tokens["l"] == host["clip"].tokenize("a photo of a with a green beard, in the woods, a")["l"]
    assert not caplog.records


@pytest.mark.parametrize(("size", "warned"), [((16, 16), False), ((16, 32), False), ((8, 8), True), ((64, 64), True)])
def test_a_size_that_mini_does_not_know_is_a_warning(host, caplog, size, warned):
    host["model"].get_model_object("latent_format").process_out(torch.zeros(1, LATENT_CHANNELS, *size))
    assert (f"At {8 * size[1]}x{8 * size[0]} it draws broken faces" in caplog.text) == warned
