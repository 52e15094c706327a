"""Loading a base model: a single .safetensors file, a diffusers folder, or the embedded model.

What a file is, its weights decide; nothing is looked up by name and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import PIDiffError, listed
from ...files.foreign.stable_diffusion import from_open_clip
from ...files.safetensors import SafetensorsFile
from ...files.weights import strip_prefix
from .base import Autoencoder, Base, Parts, TextEncoder, schedule
from .build import LATENT_SCALES, UNUSED_TEXT, State, build_autoencoder, build_unet
from .folder import load_folder
from .shapes_to_configs import autoencoder_config, clip_config, family_of, open_clip_config, unet_config
from .text import ClipText, JoinedText, MiniText, clip_model

MINI = "mini"

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP_OF_SD1 = ("cond_stage_model.transformer.",)
_CLIP_OF_SD2 = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
_CLIPS_OF_XL = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
# ComfyUI tells SD 2.1's v-prediction from SD 2.0's epsilon by the spread of this bias, as no key tells them apart.
_V_BIAS, _V_SPREAD = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


def load_base(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    prediction: str = "auto",
) -> Base:
    """A base to train on. Its parts are read on first use.

    Args:
        path: a single-file checkpoint (.safetensors), a diffusers folder, or "mini" for the embedded model.
        dtype: of the parts' weights.
        device: where the parts go.
        prediction: "epsilon", "v", or "auto" = read from the file.

    Raises:
        PIDiffError: not a base of Stable Diffusion 1.x, 2.x or XL; incomplete, damaged, or an inpainting model.
    """
    device = torch.device(device)
    if str(path) == MINI:
        return _mini(dtype=dtype, device=device)
    path = Path(path)
    if path.is_dir():
        return load_folder(path, dtype=dtype, device=device, prediction=prediction)
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise PIDiffError(
            f"{path} is a pickle by its name. Training reads bases as .safetensors files or diffusers folders: "
            "convert it first, for example with ComfyUI's Save Checkpoint node."
        )
    return _from_file(path, dtype=dtype, device=device, prediction=prediction)


def _from_file(path: Path, *, dtype: torch.dtype, device: torch.device, prediction: str) -> Base:
    file = SafetensorsFile(path)  # the weights are read when they are used
    name = path.name
    shapes = file.shapes()
    unet_shapes = file.shapes(_UNET)
    if not unet_shapes:
        kind = (
            "a LoRA" if any("lora" in key for key in shapes) else f"a file with keys such as {listed(sorted(shapes))}"
        )
        raise PIDiffError(
            f"{path} is not a Stable Diffusion checkpoint but {kind}. Give the whole checkpoint, as in ComfyUI's "
            "models/checkpoints folder, or a diffusers folder."
        )
    config = unet_config(unet_shapes, name=name)
    family = family_of(config, name=name)
    if prediction == "auto":
        prediction = _prediction(file, family)

    def autoencoder() -> Autoencoder:
        vae_state = file.tensors(_VAE)
        if not vae_state:
            raise PIDiffError(f"{path} has no autoencoder. Give a checkpoint with its VAE inside.")
        return build_autoencoder(
            autoencoder_config(vae_state, name=name), vae_state, dtype=dtype, name=name, rename=True
        )

    def text() -> TextEncoder:
        return _text_of_file(whole(*text_prefixes), family, dtype=dtype, device=device, name=name)

    def whole(*prefixes: str) -> dict[str, Tensor]:
        return {key: file.read(key) for key in shapes if key.startswith(prefixes)}

    text_prefixes = ("cond_stage_model.", "conditioner.")
    return Base(
        name=name,
        family=family,
        prediction=prediction,
        alphas_cumprod=schedule(zero_snr="ztsnr" in shapes),
        context_width=config["cross_attention_dim"],
        latent_channels=config["in_channels"],
        latent_scale=LATENT_SCALES[family],
        parts=Parts(
            unet=lambda: build_unet(config, file.tensors(_UNET), dtype=dtype, name=name, rename=True),
            autoencoder=autoencoder,
            text=text,
            weights=lambda: whole(_VAE, *text_prefixes),
        ),
        device=device,
    )


def _prediction(file: SafetensorsFile, family: str) -> str:
    shapes = file.shapes()
    if "v_pred" in shapes:
        return "v"
    bias = _UNET + _V_BIAS
    if family == "sd2" and bias in shapes and float(file.read(bias).float().std(unbiased=False)) > _V_SPREAD:
        return "v"
    return "epsilon"


def _text_of_file(state: State, family: str, *, dtype: torch.dtype, device: torch.device, name: str) -> TextEncoder:
    def part(*prefixes: str) -> dict[str, Tensor]:
        for prefix in prefixes:
            if found := strip_prefix(state, prefix):
                return found
        raise PIDiffError(f"{name} has no text encoder under {' or '.join(prefixes)}. Give a whole checkpoint.")

    def clip(found: dict[str, Tensor], *, output: str) -> ClipText:
        weights = {key.removeprefix("text_model."): value for key, value in found.items()}
        weights = {key: value for key, value in weights.items() if not key.endswith(UNUSED_TEXT)}
        config = clip_config(weights, name=name, activation="quick_gelu")
        model = clip_model(config, weights, dtype=dtype, device=device, name=name)
        return ClipText(model, output=output, pad_id=config["eos_token_id"])

    def open_clip(found: dict[str, Tensor], *, output: str, pooled: bool) -> ClipText:
        config = open_clip_config(found, name=name)
        projection = found.get("text_projection")
        wanted = {key: value for key, value in found.items() if not key.endswith(UNUSED_TEXT)}
        model = clip_model(config, from_open_clip(wanted, _clip_keys(config)), dtype=dtype, device=device, name=name)
        if pooled and projection is None:
            raise PIDiffError(f"{name} is incomplete: its second text encoder has no text_projection.")
        return ClipText(model, output=output, pad_id=0, projection=projection.to(device) if pooled else None)

    if family == "sd15":
        return clip(part(*_CLIP_OF_SD1), output="last")
    if family == "sd2":
        return open_clip(part(*_CLIP_OF_SD2), output="penultimate normalised", pooled=False)
    return JoinedText(
        clip(part(_CLIPS_OF_XL[0]), output="penultimate"),
        open_clip(part(_CLIPS_OF_XL[1]), output="penultimate", pooled=True),
    )


def _clip_keys(config: Mapping[str, Any]) -> list[str]:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return [key.removeprefix("text_model.") for key in CLIPTextModel(CLIPTextConfig(**config)).state_dict()]


def _mini(*, dtype: torch.dtype, device: torch.device) -> Base:
    from ...mini.bundle import load_base as load_bundle
    from ...mini.cell_codec import between_pictures, stored_cells

    tensors, config = load_bundle()
    unet_state, vae_state = strip_prefix(tensors, _UNET), strip_prefix(tensors, _VAE)
    fields = unet_config(unet_state, name=MINI, head_width=config["unet"]["num_head_channels"])
    name = MINI

    def autoencoder() -> Autoencoder:
        built = build_autoencoder(
            autoencoder_config(vae_state, name=name), vae_state, dtype=dtype, name=name, rename=True
        )
        between_pictures(built.kl, cells=stored_cells(tensors), unshuffle=config["pixel_unshuffle"])
        return built

    def text() -> TextEncoder:
        state = strip_prefix(tensors, "cond_stage_model.")
        return MiniText(clip_model(config["text"], state, dtype=dtype, device=device, name=name))

    return Base(
        name=name,
        family="mini",
        prediction=config["prediction"],
        alphas_cumprod=schedule(beta_start=config["beta_start"], beta_end=config["beta_end"]),
        context_width=fields["cross_attention_dim"],
        latent_channels=fields["in_channels"],
        latent_scale=config["latent_scale"],
        parts=Parts(
            unet=lambda: build_unet(fields, unet_state, dtype=dtype, name=name, rename=True),
            autoencoder=autoencoder,
            text=text,
            weights=lambda: {key: value for key, value in tensors.items() if not key.startswith(_UNET)},
        ),
        device=device,
    )
