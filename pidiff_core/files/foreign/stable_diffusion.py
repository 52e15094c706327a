"""Names of weights in Stable Diffusion checkpoints, and the same weights' names in diffusers and transformers.

Each function takes the names that our own network has and returns the name of each in a single-file checkpoint
("model.diffusion_model.", "first_stage_model.", "cond_stage_model." already removed).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ...errors import PIDiffError

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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.out_proj.": ".attn.out_proj.",
}
_ATTENTION_1X1 = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")


def unet_names(keys: Iterable[str]) -> dict[str, str]:
    """Of a UNet2DConditionModel whose levels all have the same number of residual blocks."""
    keys = list(keys)
    layers = 1 + max(int(found[1]) for key in keys if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", key)))
    attended = {found[0] for key in keys if (found := re.match(r"up_blocks\.\d+\.attentions", key))}
    return {key: _unet_name(key, layers, attended) for key in keys}


def _unet_name(key: str, layers: int, attended: set[str]) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        kind, index, rest = match.groups()
        entry = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{entry}.{_inner(kind, rest)}"
    if match := re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key
    ):
        direction, level, kind, index, rest = match.groups()
        if direction == "down":
            block = 1 + int(level) * (layers + 1)
            if kind == "downsamplers":
                return f"input_blocks.{block + layers}.0.op.{rest.removeprefix('conv.')}"
            return f"input_blocks.{block + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
        block = int(level) * (layers + 1)
        if kind == "upsamplers":
            return f"output_blocks.{block + layers}.{1 + (f'up_blocks.{level}.attentions' in attended)}.{rest}"
        return f"output_blocks.{block + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    raise PIDiffError(f"'{key}' is not a weight of a UNet2DConditionModel that PIDiff can read from a checkpoint.")


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    part, _, leaf = rest.rpartition(".")
    return f"{_UNET_RESNET[part]}.{leaf}"


def autoencoder_names(keys: Iterable[str]) -> dict[str, str]:
    """Of an AutoencoderKL."""
    keys = list(keys)
    levels = 1 + max(int(found[1]) for key in keys if (found := re.match(r"encoder\.down_blocks\.(\d+)\.", key)))
    return {key: _autoencoder_name(key, levels) for key in keys}


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


def clip_names(keys: Iterable[str]) -> dict[str, str]:
    """Of a transformers CLIPTextModel -> CLIP as Stable Diffusion 1.x and the first encoder of XL store it."""
    return {key: f"text_model.{key.removeprefix('text_model.')}" for key in keys}


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """Weights of our own network under the names of a checkpoint; attention of an autoencoder as 1x1 convolutions."""
    return {
        names[key]: tensor[:, :, None, None] if _ATTENTION_1X1.search(names[key]) else tensor
        for key, tensor in state.items()
    }


def restored(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """The opposite of `renamed`; what no name asks for keeps its own, so that strict loading lists it."""
    ours = {theirs: key for key, theirs in names.items()}
    return {
        ours.get(key, key): tensor[:, :, 0, 0] if _ATTENTION_1X1.search(key) and tensor.ndim == 4 else tensor
        for key, tensor in state.items()
    }


def from_open_clip(state: Mapping[str, Tensor], keys: Iterable[str]) -> State:
    """OpenCLIP's text tower -> the weights of a transformers CLIPTextModel with these keys.

    It stores the projections of query, key and value as one matrix. `text_projection` and whatever else no key asks
    for keep their names.
    """
    left, result = dict(state), {}
    for key in keys:
        name = key.removeprefix("text_model.")
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.(q|k|v)_proj\.(weight|bias)", name):
            joined = f"transformer.resblocks.{found[1]}.attn.in_proj_{found[3]}"
            if joined in state:
                left.pop(joined, None)
                result[key] = state[joined].chunk(3)["qkv".index(found[2])]
            continue
        for ours, theirs in _OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if name in left:
            result[key] = left.pop(name)
    return result | left
