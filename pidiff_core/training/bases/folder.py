"""A base model from a diffusers folder: its own configurations, weights as safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import PIDiffError
from ...files.safetensors import SafetensorsFile
from .base import Base, Parts, TextEncoder, schedule
from .build import LATENT_SCALES, UNUSED_TEXT, build_autoencoder, build_unet
from .shapes_to_configs import clip_config, family_of
from .text import ClipText, JoinedText, clip_model


def load_folder(path: Path, *, dtype: torch.dtype, device: torch.device, prediction: str) -> Base:
    """See `load_base`."""
    name = path.name
    config = _json(path / "unet" / "config.json", path)
    family = family_of(config, name=name)
    scheduler = _json(path / "scheduler" / "scheduler_config.json", path)
    if scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise PIDiffError(
            f"{path} was trained with the noise schedule '{scheduler['beta_schedule']}'. PIDiff trains on bases with "
            "the schedule 'scaled_linear', which all of Stable Diffusion has."
        )
    if prediction == "auto":
        prediction = {"v_prediction": "v"}.get(scheduler.get("prediction_type", "epsilon"), "epsilon")
    vae_config = _json(path / "vae" / "config.json", path)

    def clip(folder: str, *, output: str, pad_id: int | None = None) -> ClipText:
        stored = _json(path / folder / "config.json", path)
        weights = _folder_weights(path / folder)
        text = {key: value for key, value in weights.items() if not key.endswith(UNUSED_TEXT)}
        fields = clip_config(
            {key.removeprefix("text_model."): value for key, value in text.items()},
            name=name,
            activation=stored.get("hidden_act", "quick_gelu"),
        )
        fields["num_attention_heads"] = stored.get("num_attention_heads", fields["num_attention_heads"])
        model = clip_model(fields, text, dtype=dtype, device=device, name=f"{name}/{folder}")
        projection = weights.get("text_projection.weight")
        return ClipText(
            model,
            output=output,
            pad_id=fields["eos_token_id"] if pad_id is None else pad_id,
            projection=None if projection is None else projection.T.to(device),
        )

    def text() -> TextEncoder:
        if family == "sdxl":
            return JoinedText(
                clip("text_encoder", output="penultimate"), clip("text_encoder_2", output="penultimate", pad_id=0)
            )
        # SD 2.x folders leave the last layer out of the text encoder, so that its last output is the penultimate one.
        return clip("text_encoder", output="last", pad_id=0 if family == "sd2" else None)

    def weights() -> dict[str, Tensor]:
        folders = [one for one in ("vae", "text_encoder", "text_encoder_2") if (path / one).is_dir()]
        return {f"{one}.{key}": value for one in folders for key, value in _folder_weights(path / one).items()}

    return Base(
        name=name,
        family=family,
        prediction=prediction,
        alphas_cumprod=schedule(
            beta_start=scheduler.get("beta_start", 0.00085),
            beta_end=scheduler.get("beta_end", 0.012),
            zero_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        ),
        context_width=config["cross_attention_dim"],
        latent_channels=config["in_channels"],
        latent_scale=vae_config.get("scaling_factor", LATENT_SCALES[family]),
        parts=Parts(
            unet=lambda: build_unet(config, _folder_weights(path / "unet"), dtype=dtype, name=name, rename=False),
            autoencoder=lambda: build_autoencoder(
                vae_config, _old_attention(_folder_weights(path / "vae")), dtype=dtype, name=name, rename=False
            ),
            text=text,
            weights=weights,
        ),
        device=device,
    )


def _json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PIDiffError(
            f"{folder} is not a diffusers folder of a base model: it has no {path.relative_to(folder)}. Give the "
            "folder with unet, vae, text_encoder and scheduler in it, or a single .safetensors file."
        ) from error
    except ValueError as error:
        raise PIDiffError(f"{path} is not valid JSON: {error}. Download it again.") from error


def _folder_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of one part of a diffusers folder: one safetensors file, or several with an index."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        shards = sorted(set(_json(indices[0], folder)["weight_map"].values()))
        files = [folder / shard for shard in shards]
    else:
        names = ("diffusion_pytorch_model", "model")
        files = [folder / f"{one}{end}.safetensors" for one in names for end in ("", ".fp16")]
        files = [file for file in files if file.is_file()][:1]
    if not files:
        raise PIDiffError(
            f"{folder} has no .safetensors weights (diffusion_pytorch_model.safetensors or model.safetensors). "
            "Weights as .bin files are pickles, which training does not open: save the model as safetensors."
        )
    return {key: tensor for file in files for key, tensor in SafetensorsFile(file).tensors().items()}


def _old_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Autoencoders of the first releases call the projections of their attention query, key, value and proj_attn."""
    result = {}
    for key, tensor in state.items():
        if ".attentions." in key:
            for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
                key = key.replace(f".{old}.", f".{new}.")
        result[key] = tensor
    return result
