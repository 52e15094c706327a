"""Draw web/images/presets.jpg: what each preset of ApplyIdentityAdapter does to the same pictures.

Held-out drawn people and the embedded model, in a real ComfyUI in this process: one row a person, one column the
reference, one without the identity, then one a preset; the noise is the same in every column.
"""

from __future__ import annotations

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
    with tempfile.TemporaryDirectory() as folder:
        columns = draw(Path(folder))
    write_grid(columns, TARGET)
    environment.say(f"{TARGET}")
    return 0


def draw(folder: Path) -> dict[str, list]:
    """Heading -> a picture (H, W, 3) in [0, 1] for each person."""
    import torch

    import bench_mini
    import comfy_host
    import in_process

    in_process.import_comfy(comfy_host.NEWEST, folder)
    pack = in_process.load_pack()
    import nodes as host_nodes

    encode = pack.load("nodes.encode").EncodeIdentity
    apply = pack.load("nodes.apply").ApplyIdentityAdapter
    model, clip, vae, pidiff_model = pack.load("nodes.load_mini").LoadMini.execute().result
    scenes = bench_mini.SCENES
    world = pack.load("pidiff_core.mini.data").World(seed=bench_mini.HELD_OUT_SEED, people=20, scenes=scenes)
    references = torch.stack([bench_mini.drawn(pack, world, person * scenes) for person in PEOPLE])
    wplus = encode.execute(pidiff_model, references, detector="model", face_index=0, on_no_face="error").result[0]
    conditions = [host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "")]
    latent = {"samples": torch.zeros(len(PEOPLE), 4, 16, 16)}

    def sample(patched: Any) -> list:
        (out,) = host_nodes.common_ksampler(patched, SEED, STEPS, CFG, "euler", "normal", *conditions, latent)
        return list(vae.decode(out["samples"]).detach())

    columns = {"the person": list(references), "without": sample(model)}
    for preset in pack.load("pidiff_core.adapter.presets").PRESETS:
        applied = apply.execute(model=model, pidiff_model=pidiff_model, wplus=wplus, preset=preset).result[0]
        columns[preset] = sample(applied)
    return columns


def write_grid(columns: dict[str, list], path: Path) -> None:
    """One JPEG: headings, then one row a person."""
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
