"""Configurations of a Stable Diffusion checkpoint's networks, read off its weights' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import PIDiffError

State = Mapping[str, Tensor]

HEADS_OF_SD1, HEAD_WIDTH = 8, 64  # SD 1.x has 8 heads at every level; SD 2.x and XL have heads of 64 channels


def unet_config(state: State, *, name: str, head_width: int | None = None) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel.

    Args:
        state: the UNet under Stable Diffusion's names ("input_blocks.0.0.weight").
        name: the file, for errors.
        head_width: channels of a head if it is neither SD 1.x's nor SD 2.x's rule.

    Raises:
        PIDiffError: not such a UNet, or one that adapters cannot be trained on.
    """
    levels: list[tuple[int, int]] = []  # channels, transformer layers of each level
    layers = 0
    for number in range(1, 1 + _count(state, r"input_blocks\.(\d+)\.")):
        prefix = f"input_blocks.{number}"
        if f"{prefix}.0.in_layers.2.weight" not in state:
            continue  # a downsampler
        if not levels or f"input_blocks.{number - 1}.0.op.weight" in state:
            levels.append((_shape(state, f"{prefix}.0.in_layers.2.weight", name)[0], _depth(state, f"{prefix}.1.")))
        layers += len(levels) == 1
    if not levels:
        raise PIDiffError(f"{name} has no Stable Diffusion UNet: no key such as input_blocks.1.0.in_layers.2.weight.")
    channels_in = _shape(state, "input_blocks.0.0.weight", name)[1]
    middle = _depth(state, "middle_block.1.")
    depths = [depth for _, depth in levels]
    projection = _shape(state, "middle_block.1.proj_in.weight", name)
    linear = len(projection) == 2
    channels = [width for width, _ in levels]
    if head_width is None and not linear:
        heads: int | list[int] = HEADS_OF_SD1
    else:
        heads = [max(1, width // (head_width or HEAD_WIDTH)) for width in channels]
    config: dict[str, Any] = {
        "sample_size": 64,
        "in_channels": channels_in,
        "out_channels": _shape(state, "out.2.weight", name)[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "cross_attention_dim": _shape(state, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", name)[1],
        "transformer_layers_per_block": [*(max(1, depth) for depth in depths[:-1]), middle],
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "use_linear_projection": linear,
    }
    if "label_emb.0.0.weight" in state:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": _shape(state, "label_emb.0.0.weight", name)[1],
        }
    return config


def family_of(config: Mapping[str, Any], *, name: str) -> str:
    """ "sd15", "sd2" or "sdxl".

    Raises:
        PIDiffError: a kind of UNet that PIDiff cannot train on.
    """
    if config["in_channels"] != config["out_channels"]:
        raise PIDiffError(
            f"{name} is an inpainting or edit model: its UNet reads {config['in_channels']} channels and writes "
            f"{config['out_channels']}. Train on the text-to-image model that it was made from; the adapter works in "
            "both."
        )
    if config.get("addition_embed_type") == "text_time":
        if len(config["block_out_channels"]) != 3:
            raise PIDiffError(f"{name} is an SDXL refiner. Train on an SDXL base model or one of its fine-tunes.")
        return "sdxl"
    if config.get("class_embed_type") is not None or config.get("projection_class_embeddings_input_dim") is not None:
        raise PIDiffError(f"{name} is an unCLIP model. Train on the text-to-image model of its kind.")
    return "sd2" if config.get("use_linear_projection") else "sd15"


def autoencoder_config(state: State, *, name: str) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL, from weights under Stable Diffusion's names ("encoder.conv_in.weight")."""
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    channels = [_shape(state, f"encoder.down.{i}.block.0.conv1.weight", name)[0] for i in range(levels)]
    return {
        "in_channels": _shape(state, "encoder.conv_in.weight", name)[1],
        "out_channels": _shape(state, "decoder.conv_out.weight", name)[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": channels,
        "layers_per_block": _count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _shape(state, "post_quant_conv.weight", name)[1],
        "mid_block_add_attention": any(key.startswith("encoder.mid.attn_1.") for key in state),
    }


def clip_config(state: State, *, name: str, activation: str) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig, from weights under transformers' names ("text_model." removed)."""
    vocabulary, width = _shape(state, "embeddings.token_embedding.weight", name)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(state, "encoder.layers.0.mlp.fc1.weight", name)[0],
        "num_hidden_layers": _count(state, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "max_position_embeddings": _shape(state, "embeddings.position_embedding.weight", name)[0],
        "hidden_act": activation,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
        "projection_dim": width,
    }


def open_clip_config(state: State, *, name: str) -> dict[str, Any]:
    """The same from OpenCLIP's names ("token_embedding.weight")."""
    renamed = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "encoder.layers.0.mlp.fc1.weight": "transformer.resblocks.0.mlp.c_fc.weight",
    }
    shapes = {ours: state[theirs] for ours, theirs in renamed.items() if theirs in state}
    depth = _count(state, r"transformer\.resblocks\.(\d+)\.")
    shapes |= {f"encoder.layers.{i}.": next(iter(state.values())) for i in range(depth)}
    return clip_config(shapes, name=name, activation="gelu")


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)


def _depth(state: State, prefix: str) -> int:
    return _count(state, re.escape(prefix) + r"transformer_blocks\.(\d+)\.")


def _shape(state: State, key: str, name: str) -> tuple[int, ...]:
    if key not in state:
        raise PIDiffError(f"{name} is incomplete or not a Stable Diffusion model: it has no '{key}'.")
    return tuple(state[key].shape)
