"""Base models from files: recognised by content, filled strictly, equal to the networks that they were written from."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")

import diffusers
from safetensors.torch import load_file, save_file

from pidiff_core.errors import PIDiffError
from pidiff_core.training.bases import load_base
from pidiff_core.training.bases.text import clip_tokenizer
from tests.training.checkpoints import TEXT_WIDTH, networks, single_file

FAMILIES = ("sd15", "sd2", "sdxl")
CAPTION = "a photo of a person, smiling"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """family -> (networks, single file)."""
    folder = tmp_path_factory.mktemp("bases")
    result = {}
    for family in FAMILIES:
        parts = networks(family)
        result[family] = parts, single_file(folder / f"{family}.safetensors", family, parts)
    return result


def expected_text(family, parts, ids):
    def hidden(model, index):
        return model(input_ids=ids, output_hidden_states=True).hidden_states[index]

    def norm(model):
        return getattr(model, "text_model", model).final_layer_norm

    if family == "sd15":
        return parts["text"](input_ids=ids).last_hidden_state
    if family == "sd2":
        return norm(parts["text"])(hidden(parts["text"], -2))
    return torch.cat([hidden(parts["text"], -2), hidden(parts["text_2"], -2)], dim=-1)


def token_ids(pad):
    row = clip_tokenizer()([CAPTION]).input_ids[0]
    return torch.tensor([row + [pad] * (77 - len(row))])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_networks_it_was_written_from(made, family):
    parts, path = made[family]
    base = load_base(path)
    assert (base.family, base.prediction) == (family, "epsilon")
    noisy, times = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    context = torch.randn(2, 77, base.context_width)
    more, added = {}, None
    if family == "sdxl":
        sizes = base.size_conditions((128, 128), crop=(8, 0)).expand(2, -1)
        assert sizes.tolist() == [[128, 128, 8, 0, 128, 128]] * 2
        more = {"pooled": torch.randn(2, TEXT_WIDTH), "size_conditions": sizes}
        added = {"text_embeds": more["pooled"], "time_ids": sizes}
    with torch.no_grad():
        wanted = parts["unet"](noisy, times, context, added_cond_kwargs=added).sample
        torch.testing.assert_close(base.predict(noisy, times, context=context, **more), wanted)
        images = torch.rand(1, 3, 64, 64) * 2 - 1
        latents = parts["vae"].encode(images).latent_dist.mode() * base.latent_scale
        torch.testing.assert_close(base.encode_images(images), latents)
        decoded = parts["vae"].decode(latents / base.latent_scale).sample.clamp(-1, 1)
        torch.testing.assert_close(base.decode_latents(latents), decoded)
        text = base.encode_text([CAPTION])
        pads = [49407] if family == "sd15" else [0]
        if family == "sdxl":
            first, second = expected_text("sdxl", parts, token_ids(49407)), expected_text("sdxl", parts, token_ids(0))
            torch.testing.assert_close(
                text.context, torch.cat([first[..., :TEXT_WIDTH], second[..., TEXT_WIDTH:]], dim=-1)
            )
            pooled = parts["text_2"](input_ids=token_ids(0)).pooler_output @ parts["projection"]
            torch.testing.assert_close(text.pooled, pooled)
        else:
            torch.testing.assert_close(text.context, expected_text(family, parts, token_ids(*pads)))
            assert text.pooled is None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_diffusers_folder_is_the_same_base(made, family, tmp_path):
    parts, path = made[family]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    parts["unet"].save_pretrained(tmp_path / "unet")
    parts["vae"].register_to_config(scaling_factor=0.13025 if family == "sdxl" else 0.18215)
    parts["vae"].save_pretrained(tmp_path / "vae")
    diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        tmp_path / "scheduler"
    )
    text = parts["text"]
    if family == "sd2":  # published folders leave the last layer out
        config = CLIPTextConfig(**(text.config.to_dict() | {"num_hidden_layers": 2}))
        shorter = CLIPTextModel(config)
        shorter.load_state_dict({k: v for k, v in text.state_dict().items() if k in shorter.state_dict()})
        text = shorter
    text.save_pretrained(tmp_path / "text_encoder")
    if family == "sdxl":
        config = CLIPTextConfig(**(parts["text_2"].config.to_dict() | {"projection_dim": TEXT_WIDTH}))
        second = CLIPTextModelWithProjection(config)
        inner = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in parts["text_2"].state_dict().items()}
        second.load_state_dict(inner | {"text_projection.weight": parts["projection"].T})
        second.save_pretrained(tmp_path / "text_encoder_2")
    one, other = load_base(path), load_base(tmp_path)
    assert (one.family, one.prediction, one.latent_scale) == (other.family, other.prediction, other.latent_scale)
    assert torch.equal(one.alphas_cumprod, other.alphas_cumprod)
    for name, tensor in one.unet.state_dict().items():
        assert torch.equal(tensor, other.unet.state_dict()[name])
    for name, tensor in one.autoencoder.state_dict().items():
        assert torch.equal(tensor, other.autoencoder.state_dict()[name])
    a, b = one.encode_text([CAPTION, ""]), other.encode_text([CAPTION, ""])
    torch.testing.assert_close(a.context, b.context)
    if family == "sdxl":
        torch.testing.assert_close(a.pooled, b.pooled)


@pytest.mark.slow
def test_v_prediction_is_read_off_the_file(made, tmp_path):
    spread = {"model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.linspace(-1, 1, 64)}
    path = single_file(tmp_path / "sd2v.safetensors", "sd2", made["sd2"][0], extra=spread)
    assert load_base(path).prediction == "v"
    assert load_base(path, prediction="epsilon").prediction == "epsilon"
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    xl = load_base(single_file(tmp_path / "xl.safetensors", "sdxl", made["sdxl"][0], extra=marks))
    assert xl.prediction == "v"
    assert xl.alphas_cumprod[-1] == 0
    assert load_base(made["sdxl"][1]).alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)


def test_the_fingerprint_is_of_autoencoder_and_text_alone(made, tmp_path):
    parts, path = made["sd15"]
    other_unet = single_file(tmp_path / "unet.safetensors", "sd15", parts | {"unet": networks("sd15", seed=1)["unet"]})
    other_text = single_file(tmp_path / "text.safetensors", "sd15", parts | {"text": networks("sd15", seed=1)["text"]})
    assert load_base(path).fingerprint == load_base(other_unet).fingerprint
    assert load_base(path).fingerprint != load_base(other_text).fingerprint


def test_the_embedded_base_is_the_one_that_comfyui_loads():
    from pidiff_core.mini.bundle import load_base as load_bundle

    base = load_base("mini")
    tensors, config = load_bundle()
    assert (base.family, base.prediction, base.context_width) == ("mini", "v", config["unet"]["context_dim"])
    text = base.encode_text(["a photo of a person", "nonsense"])
    assert text.context.shape == (2, config["text"]["max_position_embeddings"], base.context_width)
    images = torch.zeros(1, 3, 128, 128)
    latents = base.encode_images(images)
    assert latents.shape == (1, base.latent_channels, 16, 16)
    assert base.decode_latents(latents).abs().mean() < 0.4, "grey comes back as about grey"
    stored = tensors["model.diffusion_model.input_blocks.0.0.weight"].float()
    assert torch.equal(base.unet.conv_in.weight, stored)


def test_exception_for_what_is_not_a_base(made, tmp_path):
    state = load_file(made["sd15"][1])

    def refuses(state, match):
        path = tmp_path / "refused.safetensors"
        save_file(state, path)
        with pytest.raises(PIDiffError, match=match):
            _ = load_base(path).unet

    refuses({"a.weight": torch.zeros(1)}, "not a Stable Diffusion checkpoint")
    refuses({"lora_unet.up": torch.zeros(1)}, "a LoRA")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    refuses(state | {first: torch.zeros(32, 9, 3, 3)}, "inpainting")
    without = {k: v for k, v in state.items() if "input_blocks.4.1.proj_in.weight" not in k}
    refuses(without, re.escape("missing: down_blocks.1.attentions.0.proj_in.weight"))
    refuses(state | {"model.diffusion_model.surplus": torch.zeros(1)}, "left over: surplus")
    refuses(state | {first: state[first] * float("nan")}, "not finite: conv_in.weight")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(made["sd15"][1].read_bytes()[:-1000])
    with pytest.raises(PIDiffError, match="not a whole safetensors file"):
        load_base(cut)
    with pytest.raises(PIDiffError, match="pickle"):
        load_base(tmp_path / "model.ckpt")
    with pytest.raises(PIDiffError, match="no unet"):
        load_base(tmp_path)
    with pytest.raises(PIDiffError, match="Cannot read"):
        load_base(tmp_path / "absent.safetensors")


def test_exception_for_parts_that_a_file_lacks(made, tmp_path):
    state = {k: v for k, v in load_file(made["sd15"][1]).items() if k.startswith("model.diffusion_model.")}
    path = tmp_path / "unet_only.safetensors"
    save_file(state, path)
    base = load_base(path)
    assert base.unet.config.cross_attention_dim == 64
    with pytest.raises(PIDiffError, match="has no autoencoder"):
        base.encode_images(torch.zeros(1, 3, 64, 64))
    with pytest.raises(PIDiffError, match="no text encoder"):
        base.encode_text([""])
