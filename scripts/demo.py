"""One photo in, pictures of the person out of a real ComfyUI.

    python scripts/demo.py [--photo P] [--prompt T] [--seed N] [--out DIR] [--comfyui PATH]

Starts ComfyUI with this pack, queues the shipped workflow workflows/api/pidiff_mini.json for four prompts with the
identity and for the same prompts and seeds without it, and writes the pictures and one contact sheet.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import environment

if TYPE_CHECKING:
    from PIL import Image

    from comfy_client import Result, Workflow
    from comfy_host import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "api" / "pidiff_mini.json"
PROMPTS = (
    "a photo of a person in the forest wearing a red shirt, smiling",
    "a photo of a person at the beach wearing a yellow shirt",
    "a painting of a person in the city wearing a blue shirt",
    "a photo of a person in space wearing a white shirt, surprised",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures of the person in one photo, drawn by a real ComfyUI.")
    parser.add_argument("--photo", type=Path, help="a picture with one face; default: NASA's astronaut portrait")
    parser.add_argument("--prompt", help="draw this with four seeds, instead of four different prompts")
    parser.add_argument("--seed", type=int, default=1, help="the first of four seeds in a row (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "demo", help="where to write the pictures")
    parser.add_argument("--comfyui", type=Path, help="your own ComfyUI (or COMFYUI_PATH); default: a prepared one")
    options = parser.parse_args()
    environment.ensure(__file__)
    import comfy_host
    from comfy_client import WorkflowError

    if options.photo is not None and not options.photo.is_file():
        environment.stop(f"there is no file {options.photo}; give --photo a picture file with one face.")
    began = time.monotonic()
    out: Path = options.out.expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    photo = options.photo or _default_photo(out)
    try:
        host = comfy_host.resolve(options.comfyui)
        environment.say(f"starting ComfyUI {host.name}")
        with comfy_host.ComfyServer(host, cpu=not _has_gpu()) as server:
            environment.say(f"ready after {time.monotonic() - began:.0f} s; photo: {photo}")
            sheet = draw(server, photo, _prompts(options.prompt), seed=options.seed, out=out)
    except WorkflowError as error:
        environment.stop(f"ComfyUI reports: {error}")
    except (comfy_host.HostError, OSError) as error:  # OSError: connections and time-outs among others
        environment.stop(str(error))
    environment.say(f"done in {time.monotonic() - began:.0f} s. The contact sheet: {sheet}")
    return 0


def draw(server: ComfyServer, photo: Path, prompts: list[str], *, seed: int, out: Path) -> Path:
    """Draw every prompt with and without the identity, write all the pictures, return the contact sheet's path."""
    from PIL import Image, ImageOps

    from contact_sheet import Column, contact_sheet

    workflow = json.loads(WORKFLOW.read_text())
    workflow[_node(workflow, "LoadImage")]["inputs"]["image"] = server.upload_image(photo)
    crop_node = _node(workflow, "PreviewImage", title="Aligned crop")
    portrait_node = _node(workflow, "PreviewImage", title="The codes")
    output_node = _node(workflow, "SaveImage")
    columns: list[Column] = []
    person: list[tuple[str, Image.Image]] = []
    for number, prompt in enumerate(prompts):
        pictures = []
        for kind in ("with", "without"):
            job = with_prompt(workflow, prompt, seed + number)
            result = server.run(job if kind == "with" else without_identity(job))
            picture = _fetch(server, result, output_node)
            path = out / f"{number + 1}_{kind}_identity_seed{seed + number}.png"
            picture.save(path)
            pictures.append(picture)
            environment.say(f"{path}")
            if not person:
                with Image.open(photo) as opened:
                    person.append(("the photo", ImageOps.exif_transpose(opened).convert("RGB")))
                person.append(("aligned crop", _fetch(server, result, crop_node)))
                person.append(("its codes, decoded", _fetch(server, result, portrait_node)))
        columns.append(Column(prompt, seed + number, pictures[0], pictures[1]))
    for name, (_, image) in zip(("aligned_crop.png", "codes_portrait.png"), person[1:]):
        image.save(out / name)
        environment.say(f"{out / name}")
    path = out / "contact_sheet.png"
    footer = f"{photo.name}   ·   PIDiff mini: small models of drawn people, shipped with the pack   ·   ComfyUI"
    contact_sheet(person, columns, footer=footer).save(path)
    return path


def with_prompt(workflow: Workflow, prompt: str, seed: int) -> Workflow:
    """A copy of the workflow that draws `prompt` from `seed`."""
    job = copy.deepcopy(workflow)
    sampler = job[_node(job, "KSampler")]["inputs"]
    sampler["seed"] = seed
    job[sampler["positive"][0]]["inputs"]["text"] = prompt
    return job


def without_identity(workflow: Workflow) -> Workflow:
    """A copy whose sampler gets the plain model and that holds only what the picture needs."""
    job = copy.deepcopy(workflow)
    sampler = job[_node(job, "KSampler")]["inputs"]
    sampler["model"] = job[_node(job, "ApplyIdentityAdapter")]["inputs"]["model"]
    wanted: set[str] = set()
    pending = [_node(job, "SaveImage")]
    while pending:
        node_id = pending.pop()
        wanted.add(node_id)
        pending += [value[0] for value in job[node_id]["inputs"].values() if isinstance(value, list)]
    return {node_id: node for node_id, node in job.items() if node_id in wanted}


def _node(workflow: Workflow, class_type: str, *, title: str = "") -> str:
    """The id of the one node of a type, and of a title that begins so where there are several."""
    (node_id,) = (
        node_id
        for node_id, node in workflow.items()
        if node["class_type"] == class_type and node["_meta"]["title"].startswith(title)
    )
    return node_id


def _fetch(server: ComfyServer, result: Result, node_id: str) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(server.fetch_image(result.images(node_id)[0]))).convert("RGB")


def _prompts(prompt: str | None) -> list[str]:
    return [prompt] * len(PROMPTS) if prompt else list(PROMPTS)


def _default_photo(out: Path) -> Path:
    """NASA's portrait of Eileen Collins, public domain, which scikit-image carries."""
    from PIL import Image
    from skimage import data

    path = out / "photo_astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


if __name__ == "__main__":
    raise SystemExit(main())
