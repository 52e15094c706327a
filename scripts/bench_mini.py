"""Likeness of the embedded model: does the judge recognise, in a generated picture, the person of the reference?

Held-out drawn people; each person's codes are read from a picture that is neither generated nor in the judge's gallery.
Everything runs in a real ComfyUI in this process, through the pack's own nodes and ComfyUI's KSampler.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

PROMPTS = (
    "a photo of a person in the forest wearing a red shirt",
    "a photo of a person at the beach wearing a purple shirt, smiling",
)
HELD_OUT_SEED = 2_000_000
SCENES = 8  # of each person: the first is the reference, then the gallery, then fresh renders for the judge's accuracy
GALLERY = slice(1, 5)
FRESH = slice(5, 8)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.py mini", description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=20, help="people to tell apart")
    parser.add_argument("--seed", type=int, default=0, help="of the generated pictures")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--cfg", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--strength", type=float, default=1.0, help="of the identity")
    parser.add_argument("--preset", default="portrait", help="of ApplyIdentityAdapter")
    parser.add_argument("--sheet", type=Path, default=None, help="also write references and pictures as one PNG")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:{width}}  {value:.3f}" if isinstance(value, float) else f"{name:{width}}  {value}")
    print(json.dumps(report))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float | int | str]:
    import torch

    import comfy_host
    import in_process

    in_process.import_comfy(comfy_host.NEWEST, folder)
    pack = in_process.load_pack()
    import nodes as host_nodes

    data, likeness, bundle = (pack.load(f"pidiff_core.mini.{name}") for name in ("data", "likeness", "bundle"))
    encode = pack.load("nodes.encode").EncodeIdentity
    apply = pack.load("nodes.apply").ApplyIdentityAdapter
    model, clip, vae, pidiff_model = pack.load("nodes.load_mini").LoadMini.execute().result

    count = options.identities
    world = data.World(seed=HELD_OUT_SEED, people=count, scenes=SCENES)
    pictures = torch.stack([drawn(pack, world, index) for index in range(len(world))])  # (N, 128, 128, 3)
    # The judge compares what the autoencoder can show, not what it cannot.
    shown = torch.cat([vae.decode(vae.encode(part)) for part in pictures.split(40)])
    by_person = as_bchw(shown).unflatten(0, (count, SCENES))
    jury = likeness.Jury(bundle.load_judge(), pidiff_model.detector)
    gallery = jury.gallery(by_person[:, GALLERY])
    fresh = [jury.recognised(by_person[:, scene], gallery) for scene in range(FRESH.start, FRESH.stop)]

    references = pictures[::SCENES]
    encoded = encode.execute(pidiff_model, references, detector="model", face_index=0, on_no_face="whole image")
    wplus = encoded.result[0]
    settings = {"strength": options.strength, "preset": options.preset}
    applied = apply.execute(model=model, pidiff_model=pidiff_model, wplus=wplus, **settings).result[0]

    def sample(patched: Any, prompt: str) -> torch.Tensor:
        conditions = [host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in (prompt, "")]
        latent = {"samples": torch.zeros(count, 4, 16, 16)}
        (out,) = host_nodes.common_ksampler(
            patched, options.seed, options.steps, options.cfg, "euler", "normal", *conditions, latent
        )
        return vae.decode(out["samples"])

    with_identity = [sample(applied, prompt) for prompt in PROMPTS]
    without = [sample(model, prompt) for prompt in PROMPTS]
    results = [jury.recognised(as_bchw(images), gallery) for images in with_identity]
    plain = [jury.recognised(as_bchw(images), gallery) for images in without]
    likenesses = [jury.likeness(as_bchw(images), gallery) for images in with_identity]
    pairs = [(as_bchw(images), as_bchw(base)) for images, base in zip(with_identity, without)]
    if options.sheet is not None:
        write_sheet([references, *with_identity, *without], options.sheet)

    def mean(parts: list[torch.Tensor]) -> float:
        return float(torch.cat([part.float() for part in parts]).mean())

    return {
        "identities": count,
        "pictures": len(PROMPTS) * count,
        "retrieval": mean([judged for judged, _ in results]),
        "base_retrieval": mean([judged for judged, _ in plain]),
        "similarity": mean(likenesses),
        "base_similarity": mean([jury.likeness(as_bchw(images), gallery) for images in without]),
        "ceiling": likeness.ceiling(gallery),
        "judge_accuracy": mean([judged for judged, _ in fresh]),
        "colour_only_retrieval": mean([coloured for _, coloured in results]),
        "colour_only_accuracy": mean([coloured for _, coloured in fresh]),
        "background_change": mean([jury.background_change(images, base) for images, base in pairs]),
        "background_other_seed": mean([jury.background_change(base, base.roll(1, 0)) for _, base in pairs]),
        "preset": options.preset,
        "seed": options.seed,
    }


def drawn(pack: Any, world: Any, index: int) -> Any:
    """Picture `index` of the held-out world as a photo (H, W, 3) in [0, 1]."""
    import torch

    render = pack.load("pidiff_core.mini.render").render
    picture = render(world.person(index // world.scenes), world.scene(index, medium="photo"))
    return torch.from_numpy(picture.image.copy()).float() / 255


def as_bchw(image_bhwc: Any) -> Any:
    """[0, 1] pictures as the networks read them."""
    return image_bhwc.movedim(-1, 1) * 2 - 1


def write_sheet(rows: list[Any], path: Path) -> None:
    """One row of pictures (n, H, W, 3) below the other."""
    import torch
    from PIL import Image

    sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(path)


if __name__ == "__main__":
    raise SystemExit("run `python scripts/bench.py mini`")
