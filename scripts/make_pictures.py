"""Write the pictures that the README and ComfyUI's template browser show, each from a fresh run of its workflow.

    python scripts/make_pictures.py [pidiff_mini] [pidiff_two_people] [pidiff_detail_face]

The people in them are drawn: no photo of anybody lies in the repository.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    from PIL import Image

    from comfy_client import Result
    from comfy_host import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "outputs" / "pictures"
SIDE_PX = 400  # of a template's picture
FIRST: dict[str, Any] = {"seed": 2026, "glasses": "round", "beard": "none"}
SECOND: dict[str, Any] = {"seed": 3016}


def drawn_person(folder: Path, *, seed: int, **features: str) -> Path:
    """A person outside the training's random draws, at the size of a photo."""
    import numpy as np
    from PIL import Image

    from pidiff_core.mini.identity import Identity
    from pidiff_core.mini.render import Scene, render

    person = Identity.sample(np.random.default_rng(seed)).replace(**features)
    path = folder / f"drawn_person_{seed}.png"
    Image.fromarray(render(person, Scene(place="room", clothes="blue", expression="smile"), size=512).image).save(path)
    return path


def mini(server: ComfyServer) -> None:
    """The README's contact sheet, and four pictures of one person."""
    from PIL import Image

    import demo

    sheet = demo.draw(server, drawn_person(OUT, **FIRST), list(demo.PROMPTS), seed=1, out=OUT)
    target = ROOT / "web" / "images" / "contact_sheet.jpg"
    target.parent.mkdir(exist_ok=True)
    Image.open(sheet).save(target, quality=88)
    environment.say(f"{target}")
    pictures = [Image.open(next(OUT.glob(f"{number}_with_identity_*.png"))) for number in range(1, 5)]
    _write_template("pidiff_mini", pictures)


def two_people(server: ComfyServer) -> None:
    """Both people above, the picture below."""
    photos = [drawn_person(OUT, **FIRST), drawn_person(OUT, **SECOND)]
    result = _run(server, "pidiff_two_people", {"2": photos[0], "3": photos[1]})
    drawn = _fetch(server, result, "17")
    halves = [drawn.crop((left, 0, left + drawn.width // 2, drawn.height)) for left in (0, drawn.width // 2)]
    _write_template("pidiff_two_people", [*_open(photos), *halves])


def detail_face(server: ComfyServer) -> None:
    """The photo, the picture without the person, where the person would act, and the picture with the person."""
    photo = drawn_person(OUT, **FIRST)
    result = _run(server, "pidiff_detail_face", {"2": photo})
    _write_template(
        "pidiff_detail_face", [*_open([photo]), *(_fetch(server, result, node) for node in ("10", "12", "18"))]
    )


MAKERS: dict[str, Callable[[ComfyServer], None]] = {
    "pidiff_mini": mini,
    "pidiff_two_people": two_people,
    "pidiff_detail_face": detail_face,
}


def _run(server: ComfyServer, name: str, photos: dict[str, Path]) -> Result:
    """Queue a shipped workflow with photos in its LoadImage nodes."""
    workflow: dict[str, Any] = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    for node_id, photo in photos.items():
        workflow[node_id]["inputs"]["image"] = server.upload_image(photo)
    for node in workflow.values():
        if node["class_type"] == "EncodeIdentityW+":
            node["inputs"]["detector"] = "model"  # the others look for photographed faces
    return server.run(workflow)


def _open(paths: list[Path]) -> list[Image.Image]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in paths]


def _fetch(server: ComfyServer, result: Result, node_id: str) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(server.fetch_image(result.images(node_id)[0]))).convert("RGB")


def _write_template(name: str, pictures: list[Image.Image]) -> None:
    """ComfyUI looks for a .jpg of the workflow's name: four pictures."""
    from PIL import Image

    tile = (SIDE_PX // 2, SIDE_PX // 2)
    thumbnail = Image.new("RGB", (SIDE_PX, SIDE_PX))
    for number, picture in enumerate(pictures):
        place = (number % 2 * tile[0], number // 2 * tile[1])
        thumbnail.paste(picture.resize(tile, Image.Resampling.LANCZOS), place)
    target = ROOT / "workflows" / f"{name}.jpg"
    thumbnail.save(target, quality=88)
    environment.say(f"{target}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures for the README and the template browser.")
    parser.add_argument("names", nargs="*", choices=[[], *MAKERS], help="default: all")
    names = parser.parse_args().names or list(MAKERS)
    environment.ensure(__file__)
    import sys

    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    import comfy_host

    OUT.mkdir(parents=True, exist_ok=True)
    with comfy_host.ComfyServer(comfy_host.prepare()) as server:
        for name in names:
            MAKERS[name](server)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
