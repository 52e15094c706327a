"""The shipped Stable Diffusion 1.5 workflow on a checkpoint of the full size, its weights and the adapter's random."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import demo
from comfy_host import DEFAULT, ComfyServer
from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.adapter.sites import SiteSpec
from pidiff_core.files.adapters import save_adapter
from pidiff_core.files.networks import save_networks
from pidiff_core.mini.bundle import load_identity

# The 16 cross-attentions of Stable Diffusion 1.5, eight heads each.
ENTRIES = {
    "input": {1: 320, 2: 320, 4: 640, 5: 640, 7: 1280, 8: 1280},
    "middle": {0: 1280},
    "output": {3: 1280, 4: 1280, 5: 1280, 6: 640, 7: 640, 8: 640, 9: 320, 10: 320, 11: 320},
}
SITES = tuple(
    SiteSpec(f"{block}.{number}.0", width, 8) for block, entries in ENTRIES.items() for number, width in entries.items()
)


@pytest.fixture(scope="session")
def pidiff_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapter.safetensors for SD 1.5, random, and encoder.safetensors, the embedded model's."""
    folder = tmp_path_factory.mktemp("pidiff_files")
    mini = load_identity()
    save_networks(folder / "encoder.safetensors", mini)
    torch.manual_seed(0)
    adapter = IdentityAdapter(
        AdapterConfig(sites=SITES, num_styles=mini.space.num_styles, code_width=mini.space.width, token_width=768)
    )
    for site in SITES:
        torch.nn.init.normal_(adapter.sites[site.name].to_v.weight, std=0.05)
    save_adapter(folder / "adapter.safetensors", adapter, space=mini.space, latent_avg=mini.latent_avg)
    return folder


@pytest.fixture
def sd15(
    api_workflow, server: ComfyServer, sd15_checkpoint: Path, pidiff_files: Path, photo: Path
) -> Iterator[Callable[[str], dict]]:
    """A shipped workflow for Stable Diffusion 1.5 by name, with files that exist, 64 px and one step."""
    links = {server.base / "models" / "checkpoints" / "random_sd15.safetensors": sd15_checkpoint}
    links |= {server.base / "models" / "pidiff" / path.name: path for path in pidiff_files.iterdir()}
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(target, link)

    def small(name: str) -> dict:
        workflow = api_workflow(name)
        workflow["1"]["inputs"]["ckpt_name"] = "random_sd15.safetensors"
        workflow["2"]["inputs"]["image"] = server.upload_image(photo)
        workflow["4"]["inputs"]["start_percent"] = 0.0
        workflow["7"]["inputs"] |= {"width": 64, "height": 64}
        workflow["8"]["inputs"]["steps"] = 1
        workflow["14"]["inputs"] |= {"adapter": "adapter.safetensors", "encoder": "encoder.safetensors"}
        return workflow

    yield small
    for link in links:
        link.unlink()


@pytest.mark.slow
def test_the_sd15_workflow_draws_and_strength_zero_is_the_plain_model(server, sd15, picture):
    workflow = sd15("pidiff_sd15")
    with_identity = picture(server.run(workflow), "10")
    workflow["4"]["inputs"]["strength"] = 0.0
    nothing = picture(server.run(workflow), "10")
    plain = picture(server.run(demo.without_identity(workflow)), "10")
    assert with_identity.shape == (64, 64, 3)
    assert np.array_equal(nothing, plain)
    assert not np.array_equal(with_identity, plain)
    assert np.isfinite(with_identity).all()
    assert with_identity.std() > 0.01
    server.request("/free", b'{"unload_models": true, "free_memory": true}')


@pytest.mark.slow
@pytest.mark.parametrize("server", [DEFAULT], indirect=True)
def test_a_controlnet_and_a_person_both_change_the_picture(server, sd15, sd15_controlnet, photo, picture):
    link = server.base / "models" / "controlnet" / "random_controlnet.safetensors"
    link.parent.mkdir(parents=True, exist_ok=True)
    os.link(sd15_controlnet, link)
    workflow = sd15("pidiff_controlnet")
    workflow["15"]["inputs"]["image"] = server.upload_image(photo)
    workflow["18"]["inputs"]["control_net_name"] = link.name
    both = picture(server.run(workflow), "10")
    edges = picture(server.run(workflow), "17")
    assert 0.005 < edges.mean() < 0.5, "edges of the photo, not an empty picture"
    pictures = [both]
    for node_id in ("4", "19"):
        workflow[node_id]["inputs"]["strength"] = 0.0
        pictures.append(picture(server.run(workflow), "10"))
    assert all(np.isfinite(one).all() for one in pictures)
    for one, two in ((0, 1), (1, 2)):
        assert not np.array_equal(pictures[one], pictures[two])
    link.unlink()
    server.request("/free", b'{"unload_models": true, "free_memory": true}')
