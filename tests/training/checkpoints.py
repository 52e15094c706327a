"""Small random base models in the published layouts, made with diffusers and transformers, for tests of the trainer.

Topologies are the published ones; only widths are reduced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pidiff_core.files.foreign.stable_diffusion import autoencoder_names, clip_names, renamed, unet_names

SD = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": SD | {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64, "attention_head_dim": 8},
    "sd2": SD | {
        "block_out_channels": [64, 128, 128, 128], "cross_attention_dim": 64, "attention_head_dim": [1, 2, 2, 2],
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "layers_per_block": 2, "block_out_channels": [64, 128, 256], "cross_attention_dim": 128,
        "attention_head_dim": [1, 2, 4], "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
    },
}  # fmt: skip
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 32, 32], "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
TEXT_WIDTH = 64


def networks(family: str, *, seed: int = 0, unet: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The parts of a base: unet, vae, text and, for sdxl, text_2 with its projection."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            "unet": UNet2DConditionModel(**(unet or UNETS[family])),
            "vae": AutoencoderKL(**VAE),
            "text": _clip(gelu=family == "sd2"),
        }
        if family == "sdxl":
            parts |= {"text_2": _clip(gelu=True), "projection": torch.randn(TEXT_WIDTH, TEXT_WIDTH) * TEXT_WIDTH**-0.5}
    return {name: part.eval() if isinstance(part, torch.nn.Module) else part for name, part in parts.items()}


def _clip(*, gelu: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=TEXT_WIDTH, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=1, hidden_act="gelu" if gelu else "quick_gelu", bos_token_id=49406,
            eos_token_id=49407, pad_token_id=49407,
        )
    )  # fmt: skip


def single_file(
    path: Path, family: str, parts: Mapping[str, Any], *, extra: Mapping[str, Tensor] | None = None
) -> Path:
    """Write one .safetensors file in the layout that the family is published in."""
    unet, vae, text = (parts[name].state_dict() for name in ("unet", "vae", "text"))
    tensors = _under("model.diffusion_model.", renamed(unet, unet_names(unet)))
    tensors |= _under("first_stage_model.", renamed(vae, autoencoder_names(vae)))
    if family == "sd15":
        tensors |= _under("cond_stage_model.transformer.", renamed(text, clip_names(text)))
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif family == "sd2":
        tensors |= _under("cond_stage_model.model.", to_open_clip(text))
        tensors["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    else:
        second = to_open_clip(parts["text_2"].state_dict()) | {"text_projection": parts["projection"]}
        tensors |= _under("conditioner.embedders.0.transformer.", renamed(text, clip_names(text)))
        tensors |= _under("conditioner.embedders.1.model.", second)
    tensors |= {"model_ema.decay": torch.tensor(0.9999), **(extra or {})}
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)
    return path


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


_OPEN_CLIP = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
    ("encoder.layers.", "transformer.resblocks."),
    (".layer_norm", ".ln_"),
    (".fc1.", ".c_fc."),
    (".fc2.", ".c_proj."),
    (".self_attn.", ".attn."),
)


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers CLIPTextModel's weights as OpenCLIP stores them: q, k and v of a layer in one matrix."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("text_model.")
        if found := re.search(r"(encoder\.layers\.\d+)\.self_attn\.q_proj\.(weight|bias)$", name):
            joined = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, tensor = f"{found[1]}.self_attn.in_proj_{found[2]}", torch.cat(joined)
        elif re.search(r"self_attn\.[kv]_proj", name):
            continue
        for ours, theirs in _OPEN_CLIP:
            name = name.replace(ours, theirs)
        result[name] = tensor
    return result
