"""The whole way of a user, from photo files to an adapter in ComfyUI, against the embedded adapter.

Drawn people are written as PNG files with captions, one subfolder a person; then `pidiff prepare`, `pidiff train` and
`pidiff export` run as a user runs them, and the exported file is opened by LoadPIDiff in a real ComfyUI. Retrieval is
measured as in the benchmark `mini`, for this adapter and for the embedded one, on the same people, prompts and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import environment
from benchmarks.mini_studio import PROMPTS, Studio, as_bchw, drawn

HELD_OUT_SEED = 2_000_000
TRAINING_SEED = 7_000_000
SCENES = 5  # of each held-out person: the first is the reference, the others are the judge's gallery


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.py files", description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=2000, help="drawn people that are trained on")
    parser.add_argument("--photos", type=int, default=3, help="of each of them")
    parser.add_argument("--identities", type=int, default=20, help="held-out people to tell apart")
    parser.add_argument("--extract", type=int, default=1500, help="steps of the first stage")
    parser.add_argument("--localise", type=int, default=3800, help="steps of the second stage")
    parser.add_argument("--batch", type=int, default=32, help="samples of a step")
    parser.add_argument("--seed", type=int, default=0, help="of the generated pictures")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--cfg", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--strength", type=float, default=1.0, help="of the identity")
    parser.add_argument("--preset", default="portrait", help="of ApplyIdentityAdapter")
    parser.add_argument("--folder", type=Path, default=environment.ROOT / "training_runs" / "from_files")
    options = parser.parse_args(arguments)
    adapter = trained(options)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, adapter, Path(folder))
    for name, value in report.items():
        print(f"{name:28}  {value}")
    print(json.dumps(report))
    return 0


def trained(options: argparse.Namespace) -> Path:
    """The adapter that the commands make of drawn people; what is there of an earlier run is used."""
    from pidiff_core.training.cli import main as pidiff

    photos, prepared, run = (options.folder / name for name in ("photos", "prepared", "run"))
    if not photos.exists():
        partial = options.folder / "photos.part"
        shutil.rmtree(partial, ignore_errors=True)
        write_photos(partial, people=options.people, each=options.photos)
        partial.rename(photos)
    sizes: list[str] = []
    for stage, steps in (("extract", options.extract), ("localise", options.localise)):
        sizes += [f"--{stage}.steps", str(steps), f"--{stage}.batch_size", str(options.batch)]
    place = ["--prepare.out", str(prepared), "--data.prepared", str(prepared), "--run.folder", str(run)]
    target = options.folder / "adapter.safetensors"
    for command in (
        ["prepare", "--prepare.photos", str(photos), "--prepare.people", "subfolders"],
        ["train", *sizes],
        ["export", "--export.out", str(target), "--export.half", "false"],
    ):
        if code := pidiff([command[0], "--preset", "mini", *command[1:], *place]):
            raise SystemExit(code)
    return target


def write_photos(folder: Path, *, people: int, each: int) -> None:
    """PNG files with captions, one subfolder a person."""
    from PIL import Image
    from tqdm import tqdm

    from drawn_world.captions import caption
    from drawn_world.data import World
    from drawn_world.render import render

    world = World(seed=TRAINING_SEED, people=people, scenes=each)
    for index in tqdm(range(len(world)), desc="drawing", mininterval=10):
        scene = world.scene(index, medium="photo")
        path = folder / f"person_{index // each:05}" / f"{index % each}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(world.person(index // each), scene).image).save(path)
        path.with_suffix(".txt").write_text(caption(scene), encoding="utf-8")


def measure(options: argparse.Namespace, adapter: Path, folder: Path) -> dict[str, Any]:
    """Retrieval with both adapters."""
    import torch

    import comfy_host
    import in_process

    in_process.import_comfy(comfy_host.DEFAULT, folder)
    pack = in_process.load_pack()
    models = folder / "models" / "pidiff"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(adapter, models / "adapter.safetensors")
    pack.load("nodes.host.folders").register()
    load = pack.load("nodes.load")
    (loaded,) = load.LoadPIDiff.execute(adapter="adapter.safetensors", encoder=load.NONE, precision="fp32").result
    studio = Studio(pack, options)
    from drawn_world import bundle, data, likeness

    jury = likeness.Jury(bundle.load_judge(), studio.pidiff_model.detector)
    world = data.World(seed=HELD_OUT_SEED, people=options.identities, scenes=SCENES)
    embedded = studio.pidiff_model
    retrieval = {}
    with torch.no_grad():
        scenes = [world.scene(index, medium="photo") for index in range(len(world))]
        pictures = torch.stack([drawn(world.person(i // SCENES), scene)[0] for i, scene in enumerate(scenes)])
        by_person = as_bchw(studio.reconstructed(pictures)).unflatten(0, (options.identities, SCENES))
        gallery = jury.gallery(by_person[:, 1:])
        for name, identity in (("embedded", embedded.adapter), ("from_files", loaded.adapter)):
            studio.pidiff_model = dataclasses.replace(embedded, adapter=identity)
            model = studio.applied(studio.encoded(pictures[::SCENES]))
            shown = [studio.sample(model, prompt, count=options.identities)[0] for prompt in PROMPTS]
            found = [jury.recognised(as_bchw(images), gallery)[0] for images in shown]
            retrieval[name] = float(torch.cat(found).float().mean())
    return {
        "people": options.people,
        "photos": options.people * options.photos,
        "steps": options.extract + options.localise,
        "identities": options.identities,
        "pictures": len(PROMPTS) * options.identities,
        "retrieval_embedded": retrieval["embedded"],
        "retrieval_from_files": retrieval["from_files"],
        "difference": retrieval["from_files"] - retrieval["embedded"],
    }
