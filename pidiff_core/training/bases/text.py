"""Text encoders of the bases: CLIP with its published vocabulary, or the embedded model's words."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import PIDiffError
from ...files.weights import load_strict
from .base import TextCondition

_MERGES = 49152 - 256 - 2  # of CLIP's vocabulary: what follows in the file was never used


@cache
def clip_tokenizer() -> Any:
    """CLIP's tokenizer, from the vocabulary that the package open_clip_torch carries; nothing is downloaded.

    Raises:
        PIDiffError: the package is not installed.
    """
    from transformers import CLIPTokenizer

    found = find_spec("open_clip")  # located, not imported
    if found is None or found.origin is None:
        raise PIDiffError("CLIP's vocabulary was not found. Install the extra: pip install 'pidiff[train]'.")
    packed = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    characters = _byte_characters()
    words = [*characters, *(f"{character}</w>" for character in characters), *("".join(m.split()) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in CLIP's vocabulary, in the vocabulary's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


class ClipText:
    """One CLIP text transformer.

    Args:
        model: a transformers CLIPTextModel.
        output: which hidden states are the context: "last" (after the final norm), "penultimate" (before it), or
            "penultimate normalised".
        pad_id: what fills a caption up to the full length; the end mark in CLIP, 0 in OpenCLIP.
        projection: (width, P), what makes the pooled text, or None.
    """

    def __init__(self, model: nn.Module, *, output: str, pad_id: int, projection: Tensor | None = None) -> None:
        self.model, self.output, self.pad_id, self.projection = model, output, pad_id, projection

    def __call__(self, captions: Sequence[str]) -> TextCondition:
        config = self.model.config
        length, vocabulary = config.max_position_embeddings, config.vocab_size
        rows = clip_tokenizer()(list(captions), truncation=True, max_length=length).input_ids
        weight = next(self.model.parameters())
        ids = torch.tensor([row + [self.pad_id] * (length - len(row)) for row in rows], device=weight.device)
        if int(ids.max()) >= vocabulary:
            raise PIDiffError(f"The text encoder has {vocabulary} tokens; CLIP's vocabulary has 49408.")
        output = self.model(input_ids=ids, output_hidden_states=True)
        if self.output == "last":
            context = output.last_hidden_state
        else:
            context = output.hidden_states[-2]
            if self.output == "penultimate normalised":
                context = getattr(self.model, "text_model", self.model).final_layer_norm(context)
        pooled = None if self.projection is None else output.pooler_output @ self.projection.to(output.pooler_output)
        return TextCondition(context.float(), None if pooled is None else pooled.float())


class JoinedText:
    """XL's two encoders: their contexts side by side, the second one's pooled text."""

    def __init__(self, first: ClipText, second: ClipText) -> None:
        self.first, self.second = first, second

    def __call__(self, captions: Sequence[str]) -> TextCondition:
        first, second = self.first(captions), self.second(captions)
        return TextCondition(torch.cat([first.context, second.context], dim=-1), second.pooled)


class MiniText:
    """The embedded model's text transformer, with the words that it knows."""

    def __init__(self, model: nn.Module) -> None:
        from ...mini.vocabulary import Vocabulary

        self.model, self.vocabulary = model, Vocabulary.of_size(model.config.vocab_size)

    def __call__(self, captions: Sequence[str]) -> TextCondition:
        from ...mini.vocabulary import END_ID

        length = self.model.config.max_position_embeddings
        rows = [self.vocabulary.tokenize(caption)[: length - 1] for caption in captions]
        weight = next(self.model.parameters())
        ids = torch.tensor([row + [END_ID] * (length - len(row)) for row in rows], device=weight.device)
        return TextCondition(self.model(input_ids=ids).last_hidden_state.float())


def clip_model(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device, name: str
) -> nn.Module:
    """A transformers CLIPTextModel with these weights, whose names may begin with "text_model." or not.

    Raises:
        PIDiffError: weights are missing or left over.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    prefix = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    named = {prefix + key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    load_strict(model, named, name=f"the text encoder of {name}", dtype=dtype)
    for module in model.modules():
        if "position_ids" in module._buffers:  # not in any file, and on the meta device without values
            module.position_ids = torch.arange(config["max_position_embeddings"])[None]
    return model.to(device).eval().requires_grad_(False)
