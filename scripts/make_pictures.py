"""Write the pictures of the README, the registry and ComfyUI's template browser, each from a new run of its workflow.

    python scripts/make_pictures.py [NAME ...]; `--help` lists the names. Default: all.

The people in them are drawn: the repository contains no photos of people.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
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
OUTSIDE = {"place": "beach", "clothes": "green", "expression": "neutral", "yaw": -0.6, "light": 0.5}
SAMPLES = [ROOT / "samples" / f"pidiff_sample_{number}.png" for number in (1, 2, 3)]
# MTCNN finds all of them, so detector "auto" does. The third is the first person again.
SAMPLE_PEOPLE: tuple[dict[str, Any], ...] = (FIRST, {"seed": 21}, {**FIRST, "scene": OUTSIDE})


def drawn_person(folder: Path, *, seed: int, scene: Mapping[str, Any] | None = None, **features: str) -> Path:
    """A person outside the training's random draws, at the size of a photo.

    scene: fields of Scene; default a smile at home.
    """
    import numpy as np
    from PIL import Image

    from drawn_world.drawn_person import DrawnPerson
    from drawn_world.render import Scene, render

    person = DrawnPerson.sample(np.random.default_rng(seed)).replace(**features)
    where = Scene(**(scene or {"place": "room", "clothes": "blue", "expression": "smile"}))
    path = folder / f"drawn_person_{seed}.png"
    Image.fromarray(render(person, where, size=512).image).save(path)
    return path


def samples(server: ComfyServer) -> None:
    """The people that come with the pack for Load Image."""
    for person, target in zip(SAMPLE_PEOPLE, SAMPLES):
        target.parent.mkdir(exist_ok=True)
        drawn_person(OUT, **person).replace(target)
        environment.say(f"{target}")


def registry(server: ComfyServer) -> None:
    """The icon and the 21:9 banner for the registry: one drawn person, and the same in three scenes."""
    from PIL import Image

    scenes = (
        {"place": "room", "clothes": "blue", "expression": "smile"},
        OUTSIDE,
        {"place": "city", "clothes": "red", "expression": "surprised", "yaw": 0.6},
    )
    pictures = [Image.open(drawn_person(OUT, **FIRST, scene=scene)).convert("RGB") for scene in scenes]
    banner = Image.new("RGB", (1260, 540))
    for column, picture in enumerate(pictures):
        banner.paste(picture.resize((540, 540)).crop((60, 0, 480, 540)), (420 * column, 0))
    for name, picture in (("icon", pictures[0].resize((400, 400))), ("banner", banner)):
        target = ROOT / "web" / "images" / f"{name}.png"
        picture.quantize(256).save(target, optimize=True)
        environment.say(f"{target}")


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
    """The photo, the picture without the person, the attention map, and the picture with the person."""
    photo = drawn_person(OUT, **FIRST)
    result = _run(server, "pidiff_detail_face", {"2": photo})
    _write_template(
        "pidiff_detail_face", [*_open([photo]), *(_fetch(server, result, node) for node in ("10", "12", "18"))]
    )


def tune_mini(server: ComfyServer) -> None:
    """The photo, the crop that was encoded, what the training shows, and the picture."""
    photo = drawn_person(OUT, **FIRST)
    result = _run(server, "pidiff_tune_mini", {"2": photo})
    _write_template(
        "pidiff_tune_mini", [*_open([photo]), *(_fetch(server, result, node) for node in ("11", "13", "10"))]
    )


def edit(server: ComfyServer) -> None:
    """The first person, the other one, the portrait after the edits and the picture."""
    result = _run(
        server,
        "pidiff_edit",
        dict(zip("24", SAMPLES)),
        {
            "90": {"class_type": "PIDiffPreviewCodes", "inputs": {"pidiff_model": ["1", 3], "wplus": ["6", 0]}},
            "91": {"class_type": "PreviewImage", "inputs": {"images": ["90", 0]}},
        },
    )
    _write_template("pidiff_edit", [*_open(SAMPLES[:2]), *(_fetch(server, result, node) for node in ("91", "13"))])


def paste(server: ComfyServer) -> None:
    """The photo, and the same with three edits."""
    pictures = _open(SAMPLES[:1])
    for directions in ({"beard": 1.0}, {"grey hair": 0.5}, {"skin tone": 0.4}):
        edits = json.dumps({"directions": directions})
        result = _run(server, "pidiff_paste", {"2": SAMPLES[0]}, inputs={"4": {"edits": edits}})
        pictures.append(_fetch(server, result, "6"))
    _write_template("pidiff_paste", pictures)


def expression_sheet(server: ComfyServer) -> None:
    """The photo, and the last picture of each row."""
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}}
    result = _run(server, "pidiff_expression_sheet", {"2": SAMPLES[0]}, {"90": preview})
    cells = [_fetch(server, result, "90", number) for number in (3, 7, 11)]
    _write_template("pidiff_expression_sheet", [*_open(SAMPLES[:1]), *cells])


def best_of_eight(server: ComfyServer) -> None:
    """The first four of eight pictures, with their percents."""
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["10", 1]}}
    result = _run(server, "pidiff_best_of_eight", {"2": SAMPLES[0]}, {"90": preview})
    _write_template("pidiff_best_of_eight", [_fetch(server, result, "90", number) for number in range(4)])


def average(server: ComfyServer) -> None:
    """Two photos of one person, the portrait of their average, and the picture."""
    photos = [SAMPLES[0], SAMPLES[2]]
    result = _run(server, "pidiff_average", dict(zip("23", photos)))
    _write_template("pidiff_average", [*_open(photos), *(_fetch(server, result, node) for node in ("10", "17"))])


def mix_two_people(server: ComfyServer) -> None:
    """Four of the five pictures from the first person to the second."""
    result = _run(server, "pidiff_mix_two_people", dict(zip("24", SAMPLES)))
    _write_template("pidiff_mix_two_people", [_fetch(server, result, "15", number) for number in (0, 1, 3, 4)])


def save_person(server: ComfyServer) -> None:
    """The photo, and the saved person in three pictures."""
    pictures = _open(SAMPLES[:1])
    for text in (
        "a photo of a person at the beach",
        "a painting of a person in the city",
        "a sketch of a person in space",
    ):
        result = _run(server, "pidiff_save_person", {"2": SAMPLES[0]}, inputs={"7": {"text": text}})
        pictures.append(_fetch(server, result, "12"))
    _write_template("pidiff_save_person", pictures)


def inpaint(server: ComfyServer) -> None:
    """The photo, the picture to change, the mask, and the person in the picture."""
    result = _run(server, "pidiff_inpaint", dict(zip("24", SAMPLES)))
    pictures = [_fetch(server, result, node) for node in ("18", "16")]
    _write_template("pidiff_inpaint", [*_open(SAMPLES[:2]), *pictures])


def person_mask(server: ComfyServer) -> None:
    """The photo, the map over the picture, the mask, and what is made with it."""
    result = _run(server, "pidiff_person_mask", {"2": SAMPLES[0]})
    pictures = [_fetch(server, result, node) for node in ("11", "17", "15")]
    _write_template("pidiff_person_mask", [*_open(SAMPLES[:1]), *pictures])


def reference(server: ComfyServer) -> None:
    """The photo, the portraits before and after an edit, and the edited photo. With mini, without the edit model."""
    portraits: dict[str, dict[str, Any]] = {}
    for number, codes in (("90", "3"), ("92", "4")):
        shown = {"pidiff_model": ["1", 3], "wplus": [codes, 0]}
        portraits[number] = {"class_type": "PIDiffPreviewCodes", "inputs": shown}
        portraits[f"{number}0"] = {"class_type": "PreviewImage", "inputs": {"images": [number, 0]}}
    model = {"pidiff_model": ["1", 3]}
    edits = json.dumps({"directions": {"beard": 1.0}})
    result = _run(
        server,
        "pidiff_reference",
        {"2": SAMPLES[0]},
        {"1": {"class_type": "PIDiffLoadMini", "inputs": {}}, **portraits},
        inputs={"3": model, "4": {**model, "edits": edits}, "5": model},
        without=[str(number) for number in range(8, 19)],
    )
    pictures = [_fetch(server, result, node) for node in ("900", "920", "7")]
    _write_template("pidiff_reference", [*_open(SAMPLES[:1]), *pictures])


MAKERS: dict[str, Callable[[ComfyServer], None]] = {
    "samples": samples,
    "registry": registry,
    "pidiff_mini": mini,
    "pidiff_two_people": two_people,
    "pidiff_detail_face": detail_face,
    "pidiff_tune_mini": tune_mini,
    "pidiff_edit": edit,
    "pidiff_paste": paste,
    "pidiff_expression_sheet": expression_sheet,
    "pidiff_best_of_eight": best_of_eight,
    "pidiff_average": average,
    "pidiff_mix_two_people": mix_two_people,
    "pidiff_save_person": save_person,
    "pidiff_inpaint": inpaint,
    "pidiff_person_mask": person_mask,
    "pidiff_reference": reference,
}


def _run(
    server: ComfyServer,
    name: str,
    photos: dict[str, Path],
    more: Mapping[str, dict[str, Any]] | None = None,
    *,
    inputs: Mapping[str, dict[str, Any]] | None = None,
    without: Sequence[str] = (),
) -> Result:
    """Queue a shipped workflow with photos in its LoadImage nodes, more nodes, and other inputs by node id.

    without: nodes that are left out.
    """
    workflow: dict[str, Any] = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    workflow = {node_id: node for node_id, node in workflow.items() if node_id not in without} | (more or {})
    for node_id, changed in (inputs or {}).items():
        workflow[node_id]["inputs"] |= changed
    for node_id, photo in photos.items():
        workflow[node_id]["inputs"]["image"] = server.upload_image(photo)
    for node in workflow.values():
        if node["class_type"] == "EncodeIdentityW+":
            node["inputs"]["detector"] = "model"  # the others look for photographed faces
    return server.run(workflow)


def _open(paths: list[Path]) -> list[Image.Image]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in paths]


def _fetch(server: ComfyServer, result: Result, node_id: str, number: int = 0) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(server.fetch_image(result.images(node_id)[number]))).convert("RGB")


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
