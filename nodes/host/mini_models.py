"""The embedded base model as ComfyUI's own objects: its UNetModel, its CLIP and its VAE, around mini's weights."""

from __future__ import annotations

import logging
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
from comfy import clip_model, sd1_clip
from torch import Tensor, nn

from ...pidiff_core.files.weights import strip_prefix
from ...pidiff_core.mini.cell_codec import between_pictures, stored_cells
from ...pidiff_core.mini.vocabulary import Vocabulary, unknown_words

State = dict[str, Tensor]


def build_model(tensors: State, config: dict[str, Any]) -> comfy.model_patcher.ModelPatcher:
    """MODEL: a v-prediction model in the latent space of mini's autoencoder."""

    class MiniLatents(comfy.latent_formats.LatentFormat):
        scale_factor = config["latent_scale"]
        latent_channels = config["unet"]["in_channels"]
        latent_rgb_factors = config["latent_rgb"]

        def process_out(self, latent: Tensor) -> Tensor:
            height, width = (8 * side for side in latent.shape[-2:])
            if min(height, width) < 96 or max(height, width) > 256:
                logging.getLogger("PIDiff").warning(
                    "The PIDiff mini model was trained on pictures of 128x128 px. At %dx%d it draws broken faces: use "
                    "128x128, or 256x128 for two people.",
                    width,
                    height,
                )
            return super().process_out(latent)

    class MiniConfig(comfy.supported_models_base.BASE):
        unet_extra_config: dict[str, Any] = {}
        latent_format = MiniLatents
        sampling_settings = {"linear_start": config["beta_start"], "linear_end": config["beta_end"]}
        memory_usage_factor = 1.0

        def inpaint_model(self) -> bool:
            return False  # more than four channels are not a mask here

        def model_type(self, state_dict: State, prefix: str = "") -> comfy.model_base.ModelType:
            return comfy.model_base.ModelType.V_PREDICTION

    state = strip_prefix(tensors, "model.diffusion_model.")
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    parameters = sum(tensor.numel() for tensor in state.values())
    host_config = MiniConfig(config["unet"])
    dtype = comfy.model_management.unet_dtype(
        model_params=parameters, supported_dtypes=host_config.supported_inference_dtypes
    )
    manual_cast = comfy.model_management.unet_manual_cast(dtype, load_device, host_config.supported_inference_dtypes)
    host_config.set_inference_dtype(dtype, manual_cast)
    model = host_config.get_model(state, "", device=offload_device)
    model.diffusion_model.load_state_dict(state, strict=True)
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def build_clip(tensors: State, config: dict[str, Any]) -> comfy.sd.CLIP:
    """CLIP: word-level tokenizer and small CLIP text transformer, driven by CLIPTextEncode."""
    text = config["text"]
    vocabulary = Vocabulary.of_size(text["vocab_size"])

    class Transformer(clip_model.CLIPTextModel):
        """ComfyUI's CLIPTextModel has CLIP's vocabulary built in: this one gets its own table of words."""

        def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
            super().__init__(config_dict, dtype, device, operations)
            width = config_dict["hidden_size"]
            self.set_input_embeddings(
                operations.Embedding(config_dict["vocab_size"], width, dtype=dtype, device=device)
            )
            self.text_projection = nn.Identity()

    class TextModel(sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            special = {"start": text["bos_token_id"], "end": text["eos_token_id"], "pad": text["pad_token_id"]}
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                textmodel_json_config=dict(text),
                model_class=Transformer,
                special_tokens=special,
                max_length=text["max_position_embeddings"],
                return_projected_pooled=False,
            )

    class ConditionStage(sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=TextModel)

    class SectionTokenizer(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(
                tokenizer_path="mini",
                max_length=text["max_position_embeddings"],
                embedding_directory=embedding_directory,
                embedding_size=text["hidden_size"],
                tokenizer_class=WordTokenizer.of(vocabulary),
                tokenizer_data=tokenizer_data or {},
            )

    class Tokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=SectionTokenizer)

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, Any]:
            if unknown := unknown_words(text):
                logging.getLogger("PIDiff").warning(
                    "The PIDiff mini model does not know these words of the prompt and ignores them: %s. "
                    "The help page of Load PIDiff Mini lists what it knows.",
                    ", ".join(unknown),
                )
            return super().tokenize_with_weights(text, return_word_ids, **options)

    clip = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(Tokenizer, ConditionStage))
    state = strip_prefix(tensors, "cond_stage_model.")
    clip.cond_stage_model.clip_l.transformer.load_state_dict(state, strict=True)
    return clip


class WordTokenizer:
    """The interface of a transformers tokenizer, as far as ComfyUI's SDTokenizer uses it, for mini's words."""

    vocabulary: Vocabulary

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> type[WordTokenizer]:
        """The class for a bundle's words."""
        return type(cls.__name__, (cls,), {"vocabulary": vocabulary})

    @classmethod
    def from_pretrained(cls, path: str, **_: Any) -> WordTokenizer:
        """Nothing to read: the words are code."""
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self.vocabulary.tokenize(text)}

    def get_vocab(self) -> dict[str, int]:
        """Word -> id."""
        return self.vocabulary.ids


class _Ratio:
    """A multiplier that keeps whole numbers whole: AutoencoderKL counts channels in multiples of its first width."""

    def __init__(self, width: int, first: int) -> None:
        self.width, self.first = width, first

    def __rmul__(self, channels: int) -> int:
        return channels * self.width // self.first


def build_vae(tensors: State, config: dict[str, Any]) -> comfy.sd.VAE:
    """VAE: ComfyUI's AutoencoderKL between a pixel unshuffle and a pixel shuffle."""
    fields = dict(config["autoencoder"])
    first, *others = fields.pop("channels")
    fields |= {"ch": first, "ch_mult": [1, *(_Ratio(width, first) for width in others)]}
    state = strip_prefix(tensors, "first_stage_model.")
    channels = fields["z_channels"]
    vae = comfy.sd.VAE(sd=state, config={"params": {"ddconfig": fields, "embed_dim": channels}})
    vae.latent_channels = channels
    between_pictures(vae.first_stage_model, cells=stored_cells(tensors), unshuffle=config["pixel_unshuffle"])
    return vae
