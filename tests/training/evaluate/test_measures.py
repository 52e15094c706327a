"""Each measure on pictures and masks whose value is known."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.training.evaluate.measures import (
    ClipAlignment,
    background_drift,
    diversity,
    edit_response,
    intersection_over_union,
)

HEAD = torch.zeros(1, 16, 16)
HEAD[:, :8] = 1.0  # the upper half


def test_background_drift_counts_only_outside_both_heads():
    base, image = torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3)
    image[:, :8] = 1.0
    assert background_drift(image, base, heads=HEAD, base_heads=torch.zeros_like(HEAD)).item() == 0.0
    image[:, 8:12] = 0.5
    assert background_drift(image, base, heads=HEAD, base_heads=HEAD).item() == pytest.approx(0.25)


def test_intersection_over_union():
    other = HEAD.roll(4, dims=1)
    assert intersection_over_union(HEAD, HEAD).item() == 1.0
    assert intersection_over_union(HEAD, other).item() == pytest.approx(4 / 12)
    assert intersection_over_union(torch.zeros_like(HEAD), torch.zeros_like(HEAD)).item() == 1.0
    assert intersection_over_union(0.4 * HEAD, HEAD).item() == 0.0


def test_diversity():
    images = torch.zeros(3, 16, 16, 3)
    assert diversity(images) == 0.0
    images[2] = 0.6
    assert diversity(images) == pytest.approx(2 / 3 * 0.6)
    assert diversity(images[:1]) == 0.0


def test_edit_response():
    plus, minus = torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3)
    plus[:, :8], minus[:, 8:] = 0.5, 0.125
    inside, outside = edit_response(plus, minus, heads=HEAD)
    assert (inside.item(), outside.item()) == (0.5, 0.125)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model with random weights in transformers' layout."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    words = ["a</w>", "photo</w>", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    letters = sorted({*"aphotoc", *(f"{letter}</w>" for letter in "aphotoc")})
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*letters, *words]))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "bos_token_id": vocabulary["<|startoftext|>"],
            "eos_token_id": vocabulary["<|endoftext|>"]}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_clip_of_the_users_own_folder(clip_folder):
    clip = ClipAlignment(str(clip_folder))
    images = torch.rand(2, 40, 32, 3, generator=torch.Generator().manual_seed(0))
    scores = clip(images, ["a photo", "a cat"])
    assert scores.shape == (2,)
    assert scores.abs().max() <= 1.0
    assert torch.equal(scores[:1], clip(images[:1], ["a photo"]))
    assert scores[0] != clip(images[:1], ["a cat"])[0]


def test_a_folder_without_clip(tmp_path):
    with pytest.raises(PIDiffError, match=r"not a CLIP model: it has no config\.json.*--evaluate\.clip"):
        ClipAlignment(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PIDiffError, match="cannot be loaded"):
        ClipAlignment(str(tmp_path))
