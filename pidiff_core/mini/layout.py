"""Names of weights: from those of diffusers and transformers to those of a Stable Diffusion checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import PIDiffError

State = dict[str, Tensor]

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_layout(state: Mapping[str, Tensor], *, levels: int, layers: int) -> State:
    """UNet2DConditionModel with cross-attention at every level -> Stable Diffusion's UNetModel.

    levels: number of resolutions. layers: residual blocks a level on the way down (one more on the way up).
    """
    return {_unet_name(key, levels, layers): tensor for key, tensor in state.items()}


def _unet_name(key: str, levels: int, layers: int) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        kind, index, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_inner(kind, rest)}"
    if match := re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key
    ):
        way, level, kind, index, rest = match.groups()
        if way == "down":
            block = 1 + int(level) * (layers + 1)
            if kind == "downsamplers":
                return f"input_blocks.{block + layers}.0.op.{rest.removeprefix('conv.')}"
            return f"input_blocks.{block + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
        block = int(level) * (layers + 1)
        if kind == "upsamplers":
            return f"output_blocks.{block + layers}.2.{rest}"
        return f"output_blocks.{block + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    raise PIDiffError(f"'{key}' is no weight of a UNet2DConditionModel that this layout knows.")


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    part, _, leaf = rest.rpartition(".")
    return f"{_UNET_RESNET[part]}.{leaf}"


def autoencoder_layout(state: Mapping[str, Tensor], *, levels: int) -> State:
    """diffusers' AutoencoderKL -> Stable Diffusion's."""
    result = {}
    for key, tensor in state.items():
        name = _autoencoder_name(key, levels)
        # Attention is a linear layer there and a 1x1 convolution here.
        is_attention = re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$", name)
        result[name] = tensor[:, :, None, None] if is_attention else tensor
    return result


def _autoencoder_name(key: str, levels: int) -> str:
    name = key.replace("conv_norm_out.", "norm_out.").replace("conv_shortcut.", "nin_shortcut.")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    name = name.replace("mid_block.attentions.0.group_norm.", "mid.attn_1.norm.")
    name = re.sub(r"mid_block\.attentions\.0\.to_(q|k|v)\.", r"mid.attn_1.\1.", name)
    return name.replace("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out.")


def text_layout(state: Mapping[str, Tensor]) -> State:
    """transformers' CLIPTextModel (5.x names) -> "text_model." as in Stable Diffusion checkpoints."""
    return {key if key.startswith("text_model.") else f"text_model.{key}": tensor for key, tensor in state.items()}
