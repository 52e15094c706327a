"""W+ Adapter's published files: recognised by their keys, strictly, and computed as published."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file

from pidiff_core.adapter.folding import add_attended, attend, fold
from pidiff_core.errors import PIDiffError
from pidiff_core.files.foreign.wplus_adapter import SITES, SPACE, read_wplus_adapter
from pidiff_core.files.loading import load_any_adapter, load_pidiff
from pidiff_core.files.safetensors import SafetensorsFile
from pidiff_core.wplus.codes import WPlus

WIDTH, TOKEN_WIDTH, HEADS = 16, 24, 8


def make_file() -> dict[str, dict[str, torch.Tensor]]:
    """The published layout with narrow layers: 16 sites, processors 1, 3 ... 31."""
    generator = torch.Generator().manual_seed(0)

    def weights(*shape):
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    projection = {f"proj_{group}.weight": weights(TOKEN_WIDTH, 512 * (6 if group == 3 else 4)) for group in range(4)}
    projection |= {"norm.weight": 1 + weights(1, TOKEN_WIDTH)[0], "norm.bias": weights(1, TOKEN_WIDTH)[0]}
    branches = {}
    for number in range(1, 32, 2):
        for part, in_width in (("k", TOKEN_WIDTH), ("v", TOKEN_WIDTH), ("q", WIDTH)):
            branches[f"{number}.to_{part}_wplus.weight"] = weights(WIDTH, in_width)
    return {"w_proj": projection, "wplus_adapter": branches}


def as_training_checkpoint(content):
    flat = {f"w_proj_model.{key}": tensor for key, tensor in content["w_proj"].items()}
    flat |= {f"adapter_modules.{key}": tensor for key, tensor in content["wplus_adapter"].items()}
    return flat | {"unet.conv_in.weight": torch.zeros(1)}


def make_wplus() -> WPlus:
    generator = torch.Generator().manual_seed(1)
    return WPlus(torch.randn(1, 18, 512, generator=generator), torch.randn(18, 512, generator=generator), SPACE)


def published_tokens(content, codes):
    """w_proj as FORMATS puts it: four groups of flattened styles, no bias, LayerNorm."""
    groups = [codes[:, :4], codes[:, 4:8], codes[:, 8:12], codes[:, 12:]]
    tokens = [group.flatten(1) @ content["w_proj"][f"proj_{i}.weight"].T for i, group in enumerate(groups)]
    norm = content["w_proj"]
    return F.layer_norm(torch.stack(tokens, 1), (TOKEN_WIDTH,), norm["norm.weight"], norm["norm.bias"])


def published_branch(content, number, text_output, tokens):
    """attention(to_q(A), to_k(tokens), to_v(tokens)) of the site with that processor number."""
    w = {part: content["wplus_adapter"][f"{number}.to_{part}_wplus.weight"] for part in "qkv"}
    q, k, v = text_output @ w["q"].T, tokens @ w["k"].T, tokens @ w["v"].T
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=HEADS) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


@pytest.mark.parametrize("layout", ["split", "training checkpoint"])
def test_feature_folded_equals_the_published_arithmetic_at_every_site(layout):
    content = make_file()
    file = read_wplus_adapter(content if layout == "split" else as_training_checkpoint(content), name="x.bin")
    wplus = make_wplus()
    tokens = file.adapter.tokens(wplus)
    torch.testing.assert_close(tokens, published_tokens(content, wplus.codes), rtol=1e-5, atol=1e-5)
    zero = file.adapter.zero_tokens()
    assert file.space == SPACE
    for codes, ours in ((wplus.codes, tokens), (torch.zeros(1, 18, 512), zero)):
        folded = fold(file.adapter, ours)
        for index, site in enumerate(SITES):
            text = torch.randn(2, 12, WIDTH, generator=torch.Generator().manual_seed(index))
            out = text.clone()
            add_attended(out, folded[site], attended=attend(folded[site], host_query=text, text_output=text))
            expected = text + published_branch(
                content, 2 * index + 1, text, published_tokens(content, codes).expand(2, -1, -1)
            )
            assert ((out - expected).abs().max() / expected.abs().max()) < 1e-5


def test_feature_file_is_read_by_its_keys_whatever_its_name(tmp_path):
    path = tmp_path / "renamed.pth"
    torch.save(make_file(), path)
    assert load_any_adapter(path).adapter.config.format == "wplus-adapter"
    model = load_pidiff(adapter=path, encoder=None)
    assert model.space == SPACE
    assert model.encoder is None


def flat(content, projection, branches, **others):
    return (
        {f"{projection}.{key}": value for key, value in content["w_proj"].items()}
        | {f"{branches}.{key}": value for key, value in content["wplus_adapter"].items()}
        | others
    )


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (("w_proj", "wplus_adapter"), {}),
        (("w_proj_model", "adapter_modules"), {"unet.conv_in.weight": torch.zeros(4)}),
        (("w_proj_model", "adapter_modules"), {}),
    ],
    ids=["flat conversion", "training", "training without UNet"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_feature_safetensors_hold_the_same_adapter(tmp_path, names, others, dtype):
    content = flat(make_file(), *names, **others)
    save_file({key: value.to(dtype) for key, value in content.items()}, tmp_path / "model.safetensors")
    torch.save(content, tmp_path / "model.bin")
    expected = read_wplus_adapter(make_file(), name="x.bin").adapter.state_dict()
    for name in ("model.safetensors", "model.bin"):
        file = load_any_adapter(tmp_path / name)
        assert (file.space, file.family, file.adapter.config.format) == (SPACE, "sd15", "wplus-adapter")
        found = file.adapter.state_dict()
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor.to(dtype).float() if name == "model.safetensors" else tensor)


def test_the_unet_of_a_training_checkpoint_is_not_read(tmp_path, monkeypatch):
    content = flat(make_file(), "w_proj_model", "adapter_modules", **{"unet.conv_in.weight": torch.zeros(4)})
    save_file(content, tmp_path / "model.safetensors")
    asked = []
    read = SafetensorsFile.read
    monkeypatch.setattr(SafetensorsFile, "read", lambda file, key: asked.append(key) or read(file, key))
    load_any_adapter(tmp_path / "model.safetensors")
    assert set(asked) == {key for key in content if not key.startswith("unet.")}


@pytest.mark.parametrize("key", ["model.diffusion_model.x", "ip_adapter.1.to_k_ip.weight"])
def test_exception_other_safetensors_are_refused_by_their_keys(tmp_path, key):
    save_file({key: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(PIDiffError, match=r"a\.safetensors is not an identity adapter: its keys are"):
        load_any_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["wplus_adapter"].pop("1.to_q_wplus.weight"), r"missing.*sites\.input_1_0\.to_q"),
        (lambda c: c["wplus_adapter"].update({"1.to_x_wplus.weight": torch.zeros(1)}), "to_x_wplus"),
        (lambda c: c["wplus_adapter"].update({"33.to_k_wplus.weight": torch.zeros(16, 24)}), "another model"),
        (lambda c: c["w_proj"].pop("norm.weight"), "norm.weight"),
        (lambda c: c["w_proj"].update({"proj_4.weight": torch.zeros(1)}), r"left over.*proj_4"),
        (lambda c: c["w_proj"].update({"proj_0.weight": torch.zeros(24, 7)}), "wrong shapes"),
        (lambda c: c["wplus_adapter"]["1.to_k_wplus.weight"].fill_(torch.nan), "not finite"),
        (lambda c: c.update({"optimizer": {}}), "optimizer"),
        (lambda c: c.pop("w_proj"), "not an identity adapter"),
    ],
    ids=["missing", "unknown", "other model", "no norm", "left over", "shape", "NaN", "extra part", "half a file"],
)
def test_exception_files_that_do_not_fit_say_what_is_wrong(change, message):
    content = make_file()
    change(content)
    with pytest.raises(PIDiffError, match=message):
        read_wplus_adapter(content, name="x.bin")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"ip_adapter": {}}, torch.zeros(1)], ids=["list", "empty", "peer", "tensor"]
)
def test_exception_other_content(content):
    with pytest.raises(PIDiffError, match="not an identity adapter"):
        read_wplus_adapter(content, name="x.bin")


def test_exception_nothing_to_load():
    with pytest.raises(PIDiffError, match="Nothing to load"):
        load_pidiff(adapter=None, encoder=None)
