"""Draw web/images/presets.jpg: the same pictures with each preset of ApplyIdentityAdapter.

Held-out drawn people and the embedded model, in a real ComfyUI in this process: one row per person; columns: the
reference, without the identity, then one per preset. The noise is the same in every column.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "web" / "images" / "presets.jpg"
PEOPLE = (0, 5, 7)  # of the likeness benchmark's twenty
PROMPT = "a photo of a person at the beach wearing a purple shirt"
SEED, STEPS, CFG = 0, 20, 3.0
TILE_PX, HEADER_PX, GAP_PX = 150, 34, 6


def main() -> int:
    environment.ensure(__file__)
    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    with tempfile.TemporaryDirectory() as folder:
        columns = draw(Path(folder))
    write_grid(columns, TARGET)
    environment.say(f"{TARGET}")
    return 0


def draw(folder: Path) -> dict[str, list]:
    """Heading -> a picture (H, W, 3) in [0, 1] for each person."""
    import torch

    import comfy_host
    import in_process
    from benchmarks import mini
    from drawn_world.data import World

    in_process.import_comfy(comfy_host.DEFAULT, folder)
    pack = in_process.load_pack()
    import nodes as host_nodes

    encode = pack.load("nodes.encode").EncodeIdentity
    apply = pack.load("nodes.apply").ApplyIdentityAdapter
    model, clip, vae, pidiff_model = pack.load("nodes.load_mini").LoadMini.execute().result
    scenes = mini.SCENES
    world = World(seed=mini.HELD_OUT_SEED, people=20, scenes=scenes)
    references = torch.stack(
        [mini.drawn(world.person(person), world.scene(person * scenes, medium="photo"))[0] for person in PEOPLE]
    )
    wplus = encode.execute(pidiff_model, references, detector="model", face_index=0, on_no_face="error").result[0]
    conditions = [host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "")]
    latent = {"samples": torch.zeros(len(PEOPLE), 4, 16, 16)}

    def sample(patched: Any) -> list:
        (out,) = host_nodes.common_ksampler(patched, SEED, STEPS, CFG, "euler", "normal", *conditions, latent)
        return list(vae.decode(out["samples"]).detach())

    columns = {"the person": list(references), "without": sample(model)}
    for preset in pack.load("pidiff_core.adapter.presets").PRESETS:
        if preset == "few steps":  # for CFG 1, which mini is not made for
            continue
        applied = apply.execute(model=model, pidiff_model=pidiff_model, wplus=wplus, preset=preset).result[0]
        columns[preset] = sample(applied)
    return columns


def write_grid(columns: dict[str, list], path: Path) -> None:
    """One JPEG: headings, then one row per person."""
    from PIL import Image, ImageDraw, ImageFont

    import contact_sheet

    step = TILE_PX + GAP_PX
    rows = len(next(iter(columns.values())))
    sheet = Image.new("RGB", (len(columns) * step + GAP_PX, HEADER_PX + rows * step), contact_sheet.PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (heading, pictures) in enumerate(columns.items()):
        x = GAP_PX + column * step
        pen.text((x + 2, 8), heading, contact_sheet.INK, font=ImageFont.load_default(size=15))
        for row, picture in enumerate(pictures):
            tile = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())
            sheet.paste(tile.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), (x, HEADER_PX + row * step))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=80)


if __name__ == "__main__":
    raise SystemExit(main())
