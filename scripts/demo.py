"""One photo in, pictures of the person out of a real ComfyUI.

    python scripts/demo.py [--photo P] [--prompt T] [--seed N] [--out DIR] [--comfyui PATH]
    python scripts/demo.py --checkpoint SD15 --adapter FILE --encoder FILE [--size PX] [--steps N] ...

Starts ComfyUI with this pack, queues a shipped workflow for four prompts with the identity and for the same prompts and
seeds without it, and writes the pictures and one contact sheet. The workflow is workflows/api/pidiff_mini.json with the
embedded models, or workflows/api/pidiff_sd15.json with your own weights.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import environment
from own_weights import OwnWeights

if TYPE_CHECKING:
    from PIL import Image

    from comfy_client import Result, Workflow
    from comfy_host import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows" / "api"
PROMPTS = (
    "a photo of a person in the forest wearing a red shirt, smiling",
    "a photo of a person at the beach wearing a yellow shirt",
    "a painting of a person in the city wearing a blue shirt",
    "a photo of a person in space wearing a white shirt, surprised",
)
PHOTO_PROMPTS = (
    "a photo of a person in a forest, wearing a red shirt, smiling, natural light",
    "a close-up portrait photo of a person at the beach, evening sun, 85 mm",
    "an oil painting of a person in a busy city street",
    "a photo of a person in a white space suit, helmet off, a rocket behind",
)
MINI_FOOTER = "PIDiff mini: small models of drawn people, shipped with the pack"


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures of the person in one photo, drawn by a real ComfyUI.")
    parser.add_argument("--photo", type=Path, help="a picture with one face; default: NASA's astronaut portrait")
    parser.add_argument("--prompt", help="use this prompt with four seeds, instead of four prompts")
    parser.add_argument("--seed", type=int, default=1, help="the first of four seeds in a row (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "demo", help="output folder")
    parser.add_argument("--comfyui", type=Path, help="your own ComfyUI (or COMFYUI_PATH); default: a prepared one")
    own = parser.add_argument_group("your own weights, all three together")
    own.add_argument("--checkpoint", type=Path, help="a Stable Diffusion 1.5 checkpoint")
    own.add_argument("--adapter", type=Path, help="wplus_adapter.bin, or a PIDiff adapter for Stable Diffusion 1.5")
    own.add_argument("--encoder", type=Path, help="e4e_ffhq_encode.pt, or what pidiff_core.files.convert made of it")
    own.add_argument("--size", type=int, help="width and height in pixels (default: 512)")
    own.add_argument("--steps", type=int, help="sampling steps (default: the workflow's)")
    options = parser.parse_args()
    environment.ensure(__file__)
    import comfy_host
    from comfy_client import WorkflowError

    given: Path | None = options.photo and options.photo.expanduser()
    if given is not None and not given.is_file():
        environment.stop(f"file not found: {given}; give --photo a picture file with one face.")
    weights = OwnWeights.from_options(checkpoint=options.checkpoint, adapter=options.adapter, encoder=options.encoder)
    if weights is None and options.size is not None:
        environment.stop("--size needs your own weights: the embedded model draws pictures of 128 px.")
    if options.size is not None and (options.size < 64 or options.size % 8):
        environment.stop(f"--size {options.size}: the size must be a multiple of 8 px, at least 64 px.")
    if options.steps is not None and options.steps < 1:
        environment.stop(f"--steps {options.steps}: at least one step is needed.")
    began = time.monotonic()
    out: Path = options.out.expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        environment.stop(f"--out {out} cannot be made a folder ({error.strerror}): choose another one.")
    photo = given or _default_photo(out)
    try:
        host = comfy_host.resolve(options.comfyui)
        environment.say(f"starting ComfyUI {host.name}")
        graph = graph_for(weights, size=options.size, steps=options.steps)
        prompts = _prompts(options.prompt, PROMPTS if weights is None else PHOTO_PROMPTS)
        footer = MINI_FOOTER if weights is None else str(weights)
        with tempfile.TemporaryDirectory(prefix="pidiff-demo-") as folder:
            arguments = weights.arguments(Path(folder)) if weights is not None else ()
            with comfy_host.ComfyServer(host, cpu=not _has_gpu(), arguments=arguments) as server:
                environment.say(f"ready after {time.monotonic() - began:.0f} s; photo: {photo}")
                if weights is not None and not _has_gpu():
                    environment.say("no GPU: each picture takes minutes; --size 256 and --steps 12 are faster")
                sheet = draw(server, photo, prompts, seed=options.seed, out=out, graph=graph, footer=footer)
    except WorkflowError as error:
        environment.stop(f"ComfyUI reports: {error}")
    except (comfy_host.HostError, OSError) as error:  # OSError: connections and time-outs among others
        environment.stop(str(error))
    environment.say(f"done in {time.monotonic() - began:.0f} s. The contact sheet: {sheet}")
    return 0


def graph_for(weights: OwnWeights | None, *, size: int | None = None, steps: int | None = None) -> Workflow:
    """The shipped workflow, with the user's own weights if given.

    Args:
        weights: None for the embedded models.
        size, steps: width and height in px, and sampling steps; None keeps the workflow's.
    """
    name = "pidiff_mini" if weights is None else "pidiff_sd15"
    graph: Workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    if size is not None:
        graph[_node(graph, "EmptyLatentImage")]["inputs"] |= {"width": size, "height": size}
    if steps is not None:
        graph[_node(graph, "KSampler")]["inputs"]["steps"] = steps
    return graph if weights is None else weights.into(graph)


def draw(
    server: ComfyServer,
    photo: Path,
    prompts: list[str],
    *,
    seed: int,
    out: Path,
    graph: Workflow | None = None,
    footer: str = MINI_FOOTER,
) -> Path:
    """Draw every prompt with and without the identity, write all the pictures, return the contact sheet's path.

    Args:
        server: a running ComfyUI that has the weights which the graph names.
        photo: photo of the person.
        prompts: one picture for each.
        seed: of the first prompt; it increases by 1 for each prompt.
        out: the output folder.
        graph: the workflow to queue; default the embedded models'.
        footer: the models' names, for the contact sheet.
    """
    from PIL import Image, ImageOps

    from contact_sheet import Column, contact_sheet

    workflow = copy.deepcopy(graph or graph_for(None))
    workflow[_node(workflow, "LoadImage")]["inputs"]["image"] = server.upload_image(photo)
    crop_node = _node(workflow, "PreviewImage", title="Aligned crop")
    portrait_node = _node(workflow, "PreviewImage", title="The codes")
    output_node = _node(workflow, "SaveImage")
    pictures: dict[str, list[Image.Image]] = {"with": [], "without": []}
    person: list[tuple[str, Image.Image]] = []
    # All with the identity first: ComfyUI caches the last workflow's results, so the photo is encoded once.
    for kind, drawn in pictures.items():
        for number, prompt in enumerate(prompts):
            job = with_prompt(workflow, prompt, seed + number)
            result = server.run(job if kind == "with" else without_identity(job))
            drawn.append(_fetch(server, result, output_node))
            path = out / f"{number + 1}_{kind}_identity_seed{seed + number}.png"
            drawn[-1].save(path)
            environment.say(f"{path}")
            if not person:
                with Image.open(photo) as opened:
                    person.append(("the photo", ImageOps.exif_transpose(opened).convert("RGB")))
                person.append(("aligned crop", _fetch(server, result, crop_node)))
                person.append(("its codes, decoded", _fetch(server, result, portrait_node)))
    for name, (_, image) in zip(("aligned_crop.png", "codes_portrait.png"), person[1:]):
        image.save(out / name)
        environment.say(f"{out / name}")
    columns = [
        Column(prompt, seed + number, pictures["with"][number], pictures["without"][number])
        for number, prompt in enumerate(prompts)
    ]
    path = out / "contact_sheet.png"
    sheet = contact_sheet(person, columns, footer=f"{photo.name}   ·   {footer}   ·   ComfyUI")
    sheet.save(path)
    return path


def with_prompt(workflow: Workflow, prompt: str, seed: int) -> Workflow:
    """A copy of the workflow that draws `prompt` from `seed`."""
    job = copy.deepcopy(workflow)
    sampler = job[_node(job, "KSampler")]["inputs"]
    sampler["seed"] = seed
    job[sampler["positive"][0]]["inputs"]["text"] = prompt
    return job


def without_identity(workflow: Workflow) -> Workflow:
    """A copy whose sampler gets the plain model, without the nodes that are then unused."""
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
    """The id of the only node of this type whose title begins with `title`."""
    (node_id,) = (
        node_id
        for node_id, node in workflow.items()
        if node["class_type"] == class_type and node["_meta"]["title"].startswith(title)
    )
    return node_id


def _fetch(server: ComfyServer, result: Result, node_id: str) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(server.fetch_image(result.images(node_id)[0]))).convert("RGB")


def _prompts(prompt: str | None, default: tuple[str, ...]) -> list[str]:
    return [prompt] * len(default) if prompt else list(default)


def _default_photo(out: Path) -> Path:
    """NASA's portrait of Eileen Collins, public domain, from scikit-image."""
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
