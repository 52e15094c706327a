"""LoadPIDiff under ComfyUI's model management: nothing is read before it is used, nothing is in memory twice."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import weakref
from types import SimpleNamespace

import psutil
import pytest
import torch

from pidiff_core.e4e.config import EncoderConfig
from pidiff_core.e4e.encoder import E4eEncoder
from pidiff_core.stylegan2.config import GeneratorConfig
from pidiff_core.stylegan2.generator import Generator

ENCODER = EncoderConfig(
    image_size=32, num_styles=8, width=6, stem_channels=4, depths=(4, 5, 6, 7), units=(1, 1, 1, 1), head_channels=4,
    heads=(2, 2, 4), se_reduction=2,
)  # fmt: skip
GENERATOR = GeneratorConfig(size=32, width=6, z_dim=6, mapping_layers=1, channels=(4, 4, 4, 4))
CROPS = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("comfy")


def write_e4e(path, encoder=ENCODER, generator=GENERATOR, change=None):
    torch.manual_seed(0)
    state = {f"encoder.{key}": value for key, value in E4eEncoder(encoder).state_dict().items()}
    state |= {f"decoder.{key}": value for key, value in Generator(generator).state_dict().items()}
    if change is not None:
        change(state)
    torch.save({"state_dict": state, "latent_avg": torch.randn(8, encoder.width), "opts": {}}, path)


@pytest.fixture
def folder(comfy, nodes):
    path = comfy.base / "models" / "pidiff"
    before = set(path.iterdir())
    yield path
    for file in set(path.iterdir()) - before:
        file.unlink()


@pytest.fixture(scope="module")
def nodes(comfy, pack):
    pack.load("nodes.host.folders").register()
    return SimpleNamespace(
        load=pack.load("nodes.load").LoadPIDiff,
        mini=pack.load("nodes.load_mini").LoadMini,
        encode=pack.load("nodes.encode").EncodeIdentity,
        preview=pack.load("nodes.preview").PreviewCodes,
        codes=pack.load("nodes.codes").LoadCodes,
        error=pack.load("pidiff_core.errors").PIDiffError,
    )


@pytest.fixture
def management():
    import comfy.model_management

    comfy.model_management.unload_all_models()
    return comfy.model_management


def load(nodes, file, **inputs):
    with torch.inference_mode():  # as ComfyUI runs every node
        return nodes.load.execute("none", file, **inputs).result[0]


def read(nodes, model):
    with torch.inference_mode():
        return nodes.encode.execute(model, CROPS, "whole image", 0, "error").result[0]


def loaded_classes(management):
    return [type(patcher.model).__name__ for patcher in management.loaded_models()]


def test_loading_reads_no_weights_and_each_network_is_read_when_it_is_used(nodes, folder, management):
    write_e4e(folder / "e4e.pt")
    model = load(nodes, "e4e.pt")
    assert loaded_classes(management) == []
    codes = read(nodes, model)
    assert loaded_classes(management) == ["E4eEncoder"]
    with torch.inference_mode():
        assert nodes.preview.execute(model, codes).result[0].shape == (1, 32, 32, 3)
    assert sorted(loaded_classes(management)) == ["E4eEncoder", "Generator"]


def test_what_was_unloaded_is_loaded_again_and_reads_the_same(nodes, folder, management):
    write_e4e(folder / "e4e.pt")
    model = load(nodes, "e4e.pt")
    first = read(nodes, model)
    management.unload_all_models()
    assert loaded_classes(management) == []
    encoder = model.encoder._network
    assert {weight.device for weight in encoder.parameters()} == {management.vae_offload_device()}
    assert torch.equal(read(nodes, model).codes, first.codes)
    assert loaded_classes(management) == ["E4eEncoder"]


def test_the_same_files_are_one_set_of_weights(nodes, folder, management):
    write_e4e(folder / "e4e.pt")
    first, second = load(nodes, "e4e.pt"), load(nodes, "e4e.pt")
    assert first.encoder is second.encoder
    assert first.generator is second.generator
    assert load(nodes, "e4e.pt", precision="fp16").encoder is not first.encoder
    read(nodes, first)
    read(nodes, second)
    assert loaded_classes(management) == ["E4eEncoder"]


def test_a_file_that_has_changed_is_read_again(nodes, folder):
    write_e4e(folder / "e4e.pt")
    mark = nodes.load.fingerprint_inputs("none", "e4e.pt", precision="auto")
    first = read(nodes, load(nodes, "e4e.pt"))
    write_e4e(folder / "new.pt", change=lambda state: state["encoder.latlayer1.bias"].add_(1))
    (folder / "new.pt").replace(folder / "e4e.pt")
    assert nodes.load.fingerprint_inputs("none", "e4e.pt", precision="auto") != mark
    assert not torch.equal(first.codes, read(nodes, load(nodes, "e4e.pt")).codes)


def test_a_linked_file_is_loaded_again_when_any_file_changes(nodes, folder):
    write_e4e(folder / "e4e.pt")
    mark = nodes.load.fingerprint_inputs(None, None, precision="auto")
    assert nodes.load.fingerprint_inputs(None, None, precision=None) == mark
    assert nodes.load.fingerprint_inputs("none", None) != nodes.load.fingerprint_inputs("none", "none")
    overwritten(folder / "e4e.pt")
    assert nodes.load.fingerprint_inputs(None, None, precision="auto") != mark


def test_linked_codes_have_a_fingerprint(nodes):
    assert nodes.codes.fingerprint_inputs(None, kind=None) == nodes.codes.fingerprint_inputs(None)


def overwritten(path):
    """As `cp` does it: the same file gets other bytes."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "change",
    [overwritten, lambda path: os.truncate(path, 100), lambda path: path.unlink()],
    ids=["same size", "cut", "gone"],
)
def test_a_file_that_changes_before_its_weights_are_read_is_an_error(nodes, folder, change):
    write_e4e(folder / "e4e.pt")
    model = load(nodes, "e4e.pt")
    change(folder / "e4e.pt")
    for _ in range(2):  # nor is it read the next time
        with pytest.raises(nodes.error, match=r"e4e\.pt has changed since Load PIDiff Model opened it\. Queue again"):
            read(nodes, model)
    write_e4e(folder / "e4e.pt")
    assert read(nodes, load(nodes, "e4e.pt"))


def test_nothing_stays_when_nobody_holds_it(nodes, folder, management):
    write_e4e(folder / "e4e.pt")
    model = load(nodes, "e4e.pt")
    read(nodes, model)
    network = weakref.ref(model.encoder._network)
    del model
    gc.collect()
    assert network() is None
    assert loaded_classes(management) == []


def used_memory():
    """Resident bytes of this process, without what is freed and only kept for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc to give back what is freed")
def test_memory_does_not_grow_when_a_file_is_loaded_twice(nodes, folder):
    wide = EncoderConfig(**{**ENCODER.to_dict(), "width": 512, "head_channels": 512})
    write_e4e(folder / "wide.pt", encoder=wide, generator=GeneratorConfig(**{**GENERATOR.to_dict(), "width": 512}))
    size = (folder / "wide.pt").stat().st_size
    assert size > 50e6
    before = used_memory()
    first = load(nodes, "wide.pt")
    assert used_memory() - before < 0.3 * size
    read(nodes, first)
    once = used_memory()
    second = load(nodes, "wide.pt")
    read(nodes, second)
    assert used_memory() - once < 0.2 * size
    network = weakref.ref(first.encoder._network)
    assert network() is second.encoder._network
    del first, second
    gc.collect()
    assert network() is None  # what glibc then keeps for later, a long test run cannot tell; test_model_folders does


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("auto, faster in fp32", torch.float32),
        ("auto, faster in bf16", torch.bfloat16),
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    ],
)
def test_the_precision_is_the_users_choice(nodes, pack, folder, monkeypatch, precision, dtype):
    precision, _, faster = precision.partition(", faster in ")
    placement = pack.load("nodes.host.model_management")
    monkeypatch.setattr(placement, "cpu_is_faster_in_bf16", lambda: faster == "bf16")
    write_e4e(folder / "e4e.pt")
    model = load(nodes, "e4e.pt", precision=precision)
    codes = read(nodes, model).codes
    kinds = {weight.dtype for weight in model.encoder._network.state_dict().values()}
    assert kinds - {torch.int64} == {dtype}
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, read(nodes, load(nodes, "e4e.pt", precision="fp32")).codes, atol=0.05, rtol=0.05)


def test_weights_that_are_no_numbers_are_an_error_where_they_are_read(nodes, folder):
    write_e4e(folder / "e4e.pt", change=lambda state: state["encoder.latlayer1.bias"].fill_(torch.nan))
    model = load(nodes, "e4e.pt")
    for _ in range(2):  # and stay one
        with pytest.raises(nodes.error, match=r"encoder in e4e\.pt are not finite: latlayer1\.bias"):
            read(nodes, model)


def test_weights_too_large_for_half_precision_say_so(nodes, folder):
    write_e4e(folder / "e4e.pt", change=lambda state: state["encoder.latlayer1.bias"].fill_(1e5))
    with pytest.raises(nodes.error, match="choose fp32"):
        read(nodes, load(nodes, "e4e.pt", precision="fp16"))
    assert read(nodes, load(nodes, "e4e.pt", precision="fp32"))


def test_the_embedded_model_is_managed_and_shared_too(nodes, management):
    with torch.inference_mode():
        first, second = nodes.mini.execute().result[3], nodes.mini.execute().result[3]
    assert first is second
    codes = read(nodes, first)
    assert "E4eEncoder" in loaded_classes(management)
    management.unload_all_models()
    assert torch.equal(read(nodes, first).codes, codes.codes)


def test_without_video_memory_for_weights_the_networks_run_on_the_cpu(pack, management, monkeypatch):
    placement = pack.load("nodes.host.model_management")
    monkeypatch.setattr(management, "vae_device", lambda: torch.device("cuda"))
    assert placement.load_device() == torch.device("cuda")
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
    assert placement.load_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("bf16", "fp16", "dtype"),
    [
        (True, True, torch.bfloat16),
        (True, False, torch.bfloat16),
        (False, True, torch.float16),
        (False, False, torch.float32),
    ],
)
def test_the_automatic_precision_on_a_gpu_has_the_range_that_the_encoder_needs(
    pack, management, monkeypatch, bf16, fp16, dtype
):
    monkeypatch.setattr(management, "vae_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(management, "should_use_bf16", lambda device: bf16)
    monkeypatch.setattr(management, "should_use_fp16", lambda device: fp16)
    assert pack.load("nodes.host.model_management").precision_dtype("auto") == dtype


def test_room_is_made_for_the_networks_work_too(nodes, folder, management, monkeypatch):
    asked = []
    load_models = management.load_models_gpu

    def watched(models, **options):
        asked.append(options)
        load_models(models, **options)

    monkeypatch.setattr(management, "load_models_gpu", watched)
    write_e4e(folder / "e4e.pt")
    read(nodes, load(nodes, "e4e.pt"))
    assert asked[0]["memory_required"] > 805e6  # what the largest portrait takes


def published_adapter():
    """W+ Adapter's layout in small: 16 sites of 8 channels."""
    projection = {f"proj_{group}.weight": torch.randn(24, size) for group, size in enumerate((2048, 2048, 2048, 3072))}
    projection |= {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    shapes = {"to_k": (8, 24), "to_v": (8, 24), "to_q": (8, 8)}
    branches = {
        f"{number}.{name}_wplus.weight": torch.randn(shape)
        for number in range(1, 32, 2)
        for name, shape in shapes.items()
    }
    return {"w_proj": projection, "wplus_adapter": branches}


def test_offsets_need_the_average_that_an_adapter_alone_does_not_know(nodes, comfy, folder):
    torch.save(published_adapter(), folder / "wplus_adapter.bin")
    model = nodes.load.execute("wplus_adapter.bin", "none").result[0]
    assert model.latent_avg is None
    (comfy.base / "input").mkdir(exist_ok=True)
    torch.save(torch.ones(1, 18, 512), comfy.base / "input" / "person.pt")
    codes = nodes.codes.execute("person.pt", pidiff_model=model).result[0]
    assert torch.equal(codes.codes, torch.ones(1, 18, 512))
    with pytest.raises(nodes.error, match=r"average code of .*unknown"):
        _ = codes.offsets
    with pytest.raises(nodes.error, match=r"Choose the encoder in Load PIDiff Model too"):
        nodes.codes.execute("person.pt", kind="offset", pidiff_model=model)
