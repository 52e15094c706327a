"""PIDiffTuneIdentity on the embedded model: it learns within its bounds, and the result is saved and applied."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from drawn_world.data import World
from drawn_world.render import render

PHOTOS = 2


@pytest.fixture(scope="module")
def person(comfy, pack):
    """The embedded models, and two photos of a drawn person as EncodeIdentityW+ reads them."""
    import nodes as host_nodes

    pack_nodes = pack.load("nodes")
    with torch.inference_mode():  # as ComfyUI runs nodes
        model, clip, vae, pidiff_model = pack_nodes.LoadMini.execute().result
        world = World(seed=2_000_021, people=1, scenes=PHOTOS)
        pictures = [render(world.person(0), world.scene(i, medium="photo")).image for i in range(PHOTOS)]
        image = torch.stack([torch.from_numpy(picture.copy()).float() / 255 for picture in pictures])
        wplus, _, mask = pack_nodes.EncodeIdentity.execute(
            pidiff_model, image, detector="model", face_index=0, on_no_face="error"
        ).result
        (text,) = host_nodes.CLIPTextEncode().encode(clip, "a photo of a person")
    inputs = {
        "model": model, "vae": vae, "positive": text, "pidiff_model": pidiff_model, "wplus": wplus, "image": image,
        "face_mask": mask, "size_px": 128,
    }  # fmt: skip
    return SimpleNamespace(pack=pack, nodes=pack_nodes, clip=clip, inputs=inputs)


def tune(person, **options):
    with torch.inference_mode():
        return person.nodes.TuneIdentity.execute(**(person.inputs | options)).result


@pytest.fixture(scope="module")
def tuned(person):
    before = copy.deepcopy(person.inputs["model"].model.state_dict())
    result = tune(person, steps=12, preview_every=5)
    after = person.inputs["model"].model.state_dict()
    assert all(torch.equal(before[name].to(after[name].device), after[name]) for name in before), (
        "the user's model is not changed"
    )
    return result


def test_the_loss_on_the_face_falls(tuned):
    _, preview, report = tuned
    before, after = map(float, report.rpartition("face ")[2].split(" -> "))
    assert after < before
    assert preview.shape == (1, 128, 128, 3)
    assert report.startswith("2 photos, 12 steps")


def test_codes_stay_within_the_known_spread(person, tuned):
    codes = tuned[0]
    std = person.inputs["pidiff_model"].adapter.projection.code_std
    moved = (codes.codes - person.inputs["wplus"].codes.mean(dim=0)).abs() / std
    assert 0 < moved.max() <= 1.0
    assert codes.codes.shape == (1, 10, 128)
    assert {part.shape[0] for name, part in codes.refinement.weights.items() if name.endswith("down")} == {4}


def test_saved_loaded_and_applied(person, tuned, tmp_path):
    files = person.pack.load("pidiff_core.wplus.code_files")
    files.save_codes(tmp_path / "person.safetensors", tuned[0])
    assert (tmp_path / "person.safetensors").stat().st_size < 200_000
    loaded = files.load_codes(tmp_path / "person.safetensors")

    def picture(wplus, **options):
        import nodes as host_nodes

        apply = person.nodes.ApplyIdentityAdapter.execute
        with torch.inference_mode():
            model = person.inputs["model"]
            patched = apply(model, person.inputs["pidiff_model"], wplus, **options).result[0]
            (empty,) = host_nodes.CLIPTextEncode().encode(person.clip, "")
            latent = {"samples": torch.zeros(1, 4, 16, 16)}
            return host_nodes.common_ksampler(
                patched, 7, 2, 3.0, "euler", "normal", person.inputs["positive"], empty, latent
            )[0]["samples"]

    assert torch.equal(picture(loaded), picture(tuned[0]))
    without = replace(loaded, refinement=None)
    assert not torch.equal(picture(loaded), picture(without))
    assert torch.equal(picture(loaded, strength=0.0), picture(without, strength=0.0))


def test_the_host_computes_what_the_tuning_saw(person, tuned):
    """The folded path of ApplyIdentityAdapter and the path that trains predict the same, with the low-rank part."""
    import comfy.samplers

    refinement = person.pack.load("pidiff_core.adapter.refinement")
    adapter = refinement.refined(person.inputs["pidiff_model"].adapter, tuned[0])
    module = person.pack.load("nodes.unet.tuned_model")
    model = person.inputs["model"]
    with torch.inference_mode(False), torch.no_grad():
        channels = model.model.latent_format.latent_channels
        latents = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        host = module.TunedHostModel(
            model, adapter, positive=person.inputs["positive"], latents=[latents], masks=[torch.ones(1, 1, 128, 128)]
        )
        level = torch.tensor([0.5])
        seen = host.predict(0, level, noise_seed=3, tokens=adapter.tokens(tuned[0]))
        sigma = torch.tensor([model.get_model_object("model_sampling").percent_to_sigma(0.5)])
        clean = model.model.process_latent_in(latents)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
        patched = person.nodes.ApplyIdentityAdapter.execute(model, person.inputs["pidiff_model"], tuned[0]).result[0]
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(person.inputs["positive"], person.inputs["positive"])
        guider.set_cfg(1.0)
        sigmas = torch.cat([sigma, torch.zeros(1)])
        sampler = comfy.samplers.ksampler("euler")  # a step to 0 gives the denoised latents
        expected = guider.sample(noise, latents, sampler, sigmas, disable_pbar=True)
    scale = (1 + sigma.square()).sqrt() / sigma
    predicted = seen.predicted.cpu() / scale
    torch.testing.assert_close(predicted, model.model.process_latent_in(expected), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(seen.target.cpu() / scale, clean)


def test_codes_of_another_adapter_are_refused(person, tuned):
    pidiff_model = person.inputs["pidiff_model"]
    other = copy.deepcopy(pidiff_model.adapter)
    with torch.no_grad():
        other.branch(other.config.sites[0].name).to_k.weight += 0.1
    error = person.pack.load("pidiff_core.errors").PIDiffError
    with pytest.raises(error, match="tuned for another adapter"):
        person.nodes.ApplyIdentityAdapter.execute(
            person.inputs["model"], replace(pidiff_model, adapter=other), tuned[0]
        )
    with pytest.raises(error, match="Tuned codes cannot be combined"):
        person.pack.load("pidiff_core.wplus.average").join_codes([tuned[0], person.inputs["wplus"]])


def test_it_can_be_interrupted(person):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tune(person, steps=3)


@pytest.mark.parametrize("pressed", [1, PHOTOS + 1, PHOTOS + 2], ids=["first loss", "without", "with the identity"])
def test_no_evaluation_of_the_model_begins_after_cancel(person, monkeypatch, pressed):
    import comfy.model_management

    model = person.pack.load("nodes.unet.tuned_model").TunedHostModel
    calls, predict = [], model.predict

    def watched(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == pressed:
            comfy.model_management.interrupt_current_processing(True)
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(model, "predict", watched)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tune(person, steps=3)
    assert len(calls) == pressed


def test_bad_inputs(person):
    error = person.pack.load("pidiff_core.errors").PIDiffError
    with pytest.raises(error, match="Connect the face_mask of the Encode"):
        tune(person, face_mask=torch.ones(1, 64, 64))
    with pytest.raises(error, match="None of the photos has a face"):
        tune(person, face_mask=torch.zeros(PHOTOS, 128, 128))
    many = person.inputs["image"][:1].expand(21, -1, -1, -1)
    with pytest.raises(error, match="21 photos were given; a person is tuned from 1 to 20"):
        tune(person, image=many, face_mask=torch.ones(21, 128, 128))


def test_codes_alone(person):
    codes, _, _ = tune(person, steps=2, rank=0, preview_every=0)
    assert codes.refinement is None
    assert not torch.equal(codes.codes, person.inputs["wplus"].codes.mean(dim=0, keepdim=True))
