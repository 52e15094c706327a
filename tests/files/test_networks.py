"""Files of encoders and generators: our own, the published layouts in small, and everything that is neither."""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

import pytest
import torch

from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.errors import PIDiffError, register_host
from pidiff_core.files.container import read_container, write_container
from pidiff_core.files.convert import convert, main
from pidiff_core.files.networks import load_networks, open_networks, save_networks
from pidiff_core.files.safetensors import SafetensorsFile
from pidiff_core.model import PIDiffModel
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator
from pidiff_core.wplus.codes import WPlusSpace

SPACE = WPlusSpace("ffhq-32", 8, 6)
ENCODER = EncoderConfig(
    image_size=64, num_styles=8, width=6, stem_channels=4, depths=(4, 5, 6, 7), units=(1, 2, 1, 1), head_channels=6,
    heads=(3, 4, 1), se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(size=32, width=6, z_dim=9, mapping_layers=3, channels=(4, 5, 6, 7))


class Parts(NamedTuple):
    encoder: E4eEncoder
    generator: Generator
    average: torch.Tensor


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return Parts(E4eEncoder(ENCODER).eval(), Generator(GENERATOR).eval(), torch.randn(8, 6))


def model_of(parts, **fields):
    return PIDiffModel(SPACE, parts.average, encoder=parts.encoder, generator=parts.generator, **fields)


def e4e_file(path, parts, **changes):
    """The layout of e4e_ffhq_encode.pt."""
    state = {f"encoder.{key}": value for key, value in parts.encoder.state_dict().items()}
    state |= {f"decoder.{key}": value for key, value in parts.generator.state_dict().items()}
    content = {"state_dict": state, "latent_avg": parts.average, "opts": {"start_from_latent_avg": True}} | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def same_weights(first, second):
    other = second.state_dict()
    return all(torch.equal(tensor, other[key]) for key, tensor in first.state_dict().items())


def test_our_own_file_comes_back_bit_by_bit(tmp_path, parts):
    directions = {"age": torch.randn(8, 6), "smile": torch.randn(1, 6)}
    save_networks(tmp_path / "a.safetensors", model_of(parts, directions=directions))
    loaded = load_networks(tmp_path / "a.safetensors")
    assert loaded.space == SPACE
    assert torch.equal(loaded.latent_avg, parts.average)
    assert same_weights(loaded.encoder, parts.encoder)
    assert same_weights(loaded.generator, parts.generator)
    assert all(torch.equal(loaded.directions[name], vector) for name, vector in directions.items())
    assert not loaded.encoder.training
    assert not any(weight.requires_grad for weight in loaded.generator.parameters())


@pytest.mark.parametrize("missing", ["encoder", "generator"])
def test_a_file_may_hold_one_of_them(tmp_path, parts, missing):
    whole = {"encoder": parts.encoder, "generator": parts.generator} | {missing: None}
    save_networks(tmp_path / "a.safetensors", PIDiffModel(SPACE, parts.average, **whole))
    assert getattr(load_networks(tmp_path / "a.safetensors"), missing) is None


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, parts):
    networks = model_of(parts)
    save_networks(tmp_path / "a.safetensors", networks)
    save_networks(tmp_path / "b.safetensors", networks, dtype=torch.float16)
    loaded = load_networks(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").stat().st_size < 0.8 * (tmp_path / "a.safetensors").stat().st_size
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert loaded.encoder(image).dtype == torch.float32
    torch.testing.assert_close(loaded.encoder(image), parts.encoder(image), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("options", [{"start_from_latent_avg": True}, argparse.Namespace(n_styles=8), None])
def test_the_published_e4e_file_is_read_as_it_is(tmp_path, parts, options):
    loaded = load_networks(e4e_file(tmp_path / "e4e.pt", parts, opts=options))
    assert loaded.space == SPACE
    assert loaded.encoder.config == ENCODER
    assert loaded.generator.config == GENERATOR
    assert same_weights(loaded.encoder, parts.encoder)
    assert same_weights(loaded.generator, parts.generator)
    assert torch.equal(loaded.latent_avg, parts.average)


@pytest.mark.parametrize("options", [{"start_from_latent_avg": False}, argparse.Namespace(start_from_latent_avg=False)])
def test_an_encoder_of_absolute_codes_becomes_one_of_offsets(tmp_path, parts, options):
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        absolute = parts.encoder(image)
        loaded = load_networks(e4e_file(tmp_path / "e4e.pt", parts, opts=options))
        torch.testing.assert_close(loaded.encoder(image) + loaded.latent_avg, absolute, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": True},
        argparse.Namespace(encoder_type="BackboneEncoderUsingLastLayerIntoWPlus"),
        {"learn_in_w": False, "output_size": 1024, "start_from_latent_avg": True},
        {"encoder_type": 3},
    ],
    ids=["pSp", "another encoder", "pSp without its name", "nonsense"],
)
def test_a_psp_encoder_is_not_taken_for_e4e(tmp_path, parts, options):
    """Every key and shape is e4e's, but its heads give whole codes."""
    with pytest.raises(PIDiffError, match=r"e4e\.pt holds (a pSp|an) encoder .*but PIDiff reads e4e"):
        load_networks(e4e_file(tmp_path / "e4e.pt", parts, opts=options))


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({"encoder_type": "Encoder4Editing", "output_size": 1024}, False),
        ({"progressive_steps": [0, 2], "learn_in_w": False}, False),
        ({"start_from_latent_avg": True}, True),
        (None, True),
    ],
)
def test_an_encoder_that_does_not_say_what_it_is_is_read_with_a_warning(tmp_path, parts, options, warns, caplog):
    load_networks(e4e_file(tmp_path / "e4e.pt", parts, opts=options))
    assert ("does not name its encoder: e4e and pSp" in caplog.text) == warns


@pytest.mark.parametrize("shape", [(8, 6), (1, 6), (6,)])
def test_the_average_may_stand_there_once(tmp_path, parts, shape):
    average = parts.average[: shape[0]] if len(shape) == 2 else parts.average[0]
    loaded = load_networks(e4e_file(tmp_path / "e4e.pt", parts, latent_avg=average.reshape(shape)))
    assert torch.equal(loaded.latent_avg[0], parts.average[0])
    assert loaded.latent_avg.shape == (8, 6)


@pytest.mark.parametrize("wrap", [lambda state: {"g_ema": state, "latent_avg": torch.ones(6)}, lambda state: state])
def test_a_generator_alone_is_read(tmp_path, parts, wrap):
    torch.save(wrap(parts.generator.state_dict()), tmp_path / "g.pt")
    loaded = load_networks(tmp_path / "g.pt")
    assert loaded.encoder is None
    assert same_weights(loaded.generator, parts.generator)
    assert loaded.latent_avg.shape == (8, 6)
    assert torch.equal(loaded.latent_avg, load_networks(tmp_path / "g.pt").latent_avg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, state: state.pop("encoder.latlayer1.bias"), "missing: latlayer1.bias"),
        (lambda content, state: state.pop("encoder.input_layer.0.weight"), "not an e4e encoder .*input_layer.0.weight"),
        (lambda content, state: state.pop("decoder.conv1.noise.weight"), "missing: conv1.noise.weight"),
        (lambda content, state: state.update({"encoder.extra": torch.ones(1)}), "left over: extra"),
        (lambda content, state: state.update({"judge.weight": torch.ones(1)}), "there is also judge"),
        (
            lambda content, state: state.update({"encoder.latlayer1.bias": torch.ones(3)}),
            "wrong shapes: latlayer1.bias",
        ),
        (
            lambda content, state: state.update({"encoder.latlayer1.bias": torch.ones(6).long()}),
            "wrong types: latlayer1.bias torch.int64",
        ),
        (lambda content, state: state["encoder.latlayer1.bias"].fill_(torch.nan), "not finite: latlayer1.bias"),
        (lambda content, state: content.pop("latent_avg"), "no average code"),
        (lambda content, state: content.update(latent_avg=torch.ones(9, 6)), r"\(8 6\)"),
    ],
)
def test_a_damaged_e4e_file_is_refused_with_its_keys(tmp_path, parts, change, message):
    content = torch.load(e4e_file(tmp_path / "e4e.pt", parts), weights_only=True)
    change(content, content["state_dict"])
    torch.save(content, tmp_path / "e4e.pt")
    with pytest.raises(PIDiffError, match=message):
        load_networks(tmp_path / "e4e.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w_proj": {}, "wplus_adapter": {}}, r"W\+ Adapter.*Choose it as the adapter"),
        ({"down_blocks.0.weight": torch.ones(1)}, "its keys are down_blocks"),
        (torch.ones(1, 18, 512), "it holds a Tensor"),
        ([1, 2], "it holds a list"),
        ({"state_dict": {"encoder.weight": torch.ones(1)}}, "not an e4e encoder"),
        ({"g_ema": {"weight": torch.ones(1)}}, "not a StyleGAN2 generator"),
        ({}, "not an e4e encoder"),
        ({"state_dict": {1: torch.ones(1), "encoder.a": torch.ones(1)}}, "keys are not names: 1"),
        ({"g_ema": {2: torch.ones(1)}}, "keys are not names: 2"),
        ({3: torch.ones(1), "conv1.conv.modulation.weight": torch.ones(1)}, "keys are not names: 3"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(PIDiffError, match=message):
        load_networks(tmp_path / "a.pt")


class TestConvert:
    def test_a_published_file_becomes_ours(self, tmp_path, parts, capsys):
        source = e4e_file(tmp_path / "e4e.pt", parts)
        assert main([str(source), str(tmp_path / "e4e.safetensors")]) == 0
        assert "bit-equal" in capsys.readouterr().out
        assert same_weights(load_networks(tmp_path / "e4e.safetensors").encoder, parts.encoder)

    def test_half_precision_is_reported(self, tmp_path, parts):
        source = e4e_file(tmp_path / "e4e.pt", parts)
        report = convert(source, tmp_path / "e4e.safetensors", fp16=True, generator=False)
        assert any("largest difference" in line for line in report)
        assert any("generator  none" in line for line in report)

    def test_errors_reach_the_user_and_leave_nothing(self, tmp_path, capsys):
        (tmp_path / "e4e.pt").write_text("<html>")
        assert main([str(tmp_path / "e4e.pt"), str(tmp_path / "e4e.safetensors")]) == 1
        assert "web page" in capsys.readouterr().err
        assert main([str(tmp_path / "e4e.pt"), str(tmp_path / "e4e.bin")]) == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["e4e.pt"]

    def test_an_average_of_one_number_is_a_sentence(self, tmp_path, parts, capsys):
        source = e4e_file(tmp_path / "e4e.pt", parts, latent_avg=torch.tensor(1.0))
        assert main([str(source), str(tmp_path / "e4e.safetensors")]) == 1
        assert "latent_avg in e4e.pt should have the shape (8 6), but it has ()" in capsys.readouterr().err


class TestOpened:
    """Networks that are read when they are first used."""

    @pytest.mark.parametrize("layout", ["published", "ours"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_an_opened_file_gives_the_same_networks(self, tmp_path, parts, layout, dtype):
        path = e4e_file(tmp_path / "e4e.pt", parts)
        if layout == "ours":
            path = tmp_path / "a.safetensors"
            save_networks(path, model_of(parts))
        opened, loaded = open_networks(path, dtype=dtype), load_networks(path)
        for part in ("encoder", "generator"):
            network, expected = opened.require(part, purpose="here"), getattr(loaded, part)
            assert not network.training
            for key, tensor in network.state_dict().items():
                wanted = expected.state_dict()[key]
                assert torch.equal(tensor, wanted.to(dtype) if wanted.is_floating_point() else wanted)

    @pytest.mark.parametrize("layout", ["published", "ours"])
    @pytest.mark.parametrize("change", ["cut", "gone", "replaced"])
    def test_a_file_that_changes_before_it_is_read_is_an_error(self, tmp_path, parts, layout, change):
        path = e4e_file(tmp_path / "e4e.pt", parts)
        if layout == "ours":
            path = tmp_path / "e4e.safetensors"
            save_networks(path, model_of(parts))
        opened = open_networks(path)
        if change == "cut":
            os.truncate(path, 1000)
        elif change == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(path.stat().st_size))
        for part in ("encoder", "generator", "encoder"):
            with pytest.raises(PIDiffError, match=r"e4e\..* has changed since Load PIDiff Model opened it"):
                opened.require(part, purpose="here")

    @pytest.mark.parametrize("layout", ["published", "ours"])
    def test_the_host_can_interrupt_between_the_tensors_of_a_file(self, tmp_path, parts, layout):
        path = e4e_file(tmp_path / "e4e.pt", parts)
        if layout == "ours":
            path = tmp_path / "e4e.safetensors"
            save_networks(path, model_of(parts))
        opened = open_networks(path)
        asked = []

        class Cancelled(Exception):
            pass

        def check():
            asked.append(None)
            if len(asked) == 20:
                raise Cancelled

        register_host(check, Cancelled)
        try:
            with pytest.raises(Cancelled):
                opened.require("encoder", purpose="here")
            network = opened.require("encoder", purpose="here")
        finally:
            register_host(lambda: None)
        # Once for each tensor of the network; in a pickle also for each tensor of the file, all of which are read.
        tensors = [len(part.state_dict()) for part in (parts.encoder, parts.generator)]
        expected = tensors[0] if layout == "ours" else 2 * tensors[0] + tensors[1] + 1  # and the average
        assert len(asked) - 20 == expected
        assert same_weights(network, parts.encoder)

    def test_one_part_is_read_without_the_other(self, tmp_path, parts, monkeypatch):
        save_networks(tmp_path / "a.safetensors", model_of(parts))
        asked = []
        read = SafetensorsFile.read
        monkeypatch.setattr(SafetensorsFile, "read", lambda file, key: asked.append(key) or read(file, key))
        opened = open_networks(tmp_path / "a.safetensors")
        assert asked == ["latent_avg"]
        opened.require("generator", purpose="here")
        assert {key.split(".")[0] for key in asked[1:]} == {"generator"}

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"space": {"name": "x", "num_styles": 1_000_000, "width": 512}}, "asks for"),
            ({"space": {"name": "x", "num_styles": 256, "width": 65536}}, "incomplete|two sizes"),
            ({"encoder": {"image_size": 2**300}}, "asks for"),
            ({"encoder": [1]}, "incomplete"),
            ({"encoder": {"units": 3}}, "incomplete"),
            ({"generator": {"channels": [1, 2]}}, "resolutions"),
            ({"space": {"name": "x", "num_styles": 10, "width": 6}}, "holds a network of 8 styles of 6"),
        ],
    )
    def test_configurations_that_make_no_sense_are_refused(self, tmp_path, parts, config, message):
        save_networks(tmp_path / "a.safetensors", model_of(parts))
        tensors, good = read_container(tmp_path / "a.safetensors", kind="networks")
        write_container(tmp_path / "a.safetensors", tensors, kind="networks", config={**good, **config})
        with pytest.raises(PIDiffError, match=message):
            load_networks(tmp_path / "a.safetensors")
