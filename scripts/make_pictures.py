"""Write the pictures that the README and ComfyUI's template browser show, from a fresh run of the demo.

The person in them is drawn: no photo of anybody lies in the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parent.parent
TILE_PX = 200


def drawn_person(folder: Path) -> Path:
    """A person outside the training's random draws, at the size of a photo."""
    import numpy as np
    from PIL import Image

    from pidiff_core.mini.identity import Identity
    from pidiff_core.mini.render import Scene, render

    person = Identity.sample(np.random.default_rng(2026)).replace(glasses="round", beard="none")
    path = folder / "drawn_person.png"
    Image.fromarray(render(person, Scene(place="room", clothes="blue", expression="smile"), size=512).image).save(path)
    return path


def main() -> int:
    environment.ensure(__file__)
    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    from PIL import Image

    import comfy_host
    import demo

    out = ROOT / "outputs" / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    with comfy_host.ComfyServer(comfy_host.prepare()) as server:
        sheet = demo.draw(server, drawn_person(out), list(demo.PROMPTS), seed=1, out=out)
    target = ROOT / "web" / "images" / "contact_sheet.jpg"
    target.parent.mkdir(exist_ok=True)
    Image.open(sheet).save(target, quality=88)
    environment.say(f"{target}")

    # ComfyUI looks for a .jpg of the template's name: the four pictures with the identity.
    thumbnail = Image.new("RGB", (2 * TILE_PX, 2 * TILE_PX))
    for number in range(4):
        (path,) = out.glob(f"{number + 1}_with_identity_*.png")
        tile = Image.open(path).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
        thumbnail.paste(tile, (number % 2 * TILE_PX, number // 2 * TILE_PX))
    target = ROOT / "workflows" / "pidiff_mini.jpg"
    thumbnail.save(target, quality=88)
    environment.say(f"{target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
