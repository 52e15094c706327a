"""Press Cancel in a real ComfyUI while a node of the pack works, and measure how long it goes on.

    python scripts/cancel.py [--rounds 10] [--seed 0] [--only faces ...] [--comfyui PATH]

Each kind of work runs once undisturbed, which gives its time; in every round Cancel is pressed at a random moment of
that time, and *rounds* counts those that had not ended by then. The encoder and the generator are those of the
published size, with random weights; training is that of the embedded model; the photo has 3000x2000 px. The last line
is one JSON object; the exit status is 1 if a node went on for longer than a second.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    from comfy_client import ComfyClient, Workflow

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 1.0
ENCODER = "random_e4e.pt"
PHOTO = "large_photo.png"
PUBLISHED, MINI = ["1", 0], ["1", 3]


def main() -> int:
    environment.ensure(__file__)
    jobs = works()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=jobs, default=list(jobs))
    parser.add_argument("--comfyui", type=Path, help="your own ComfyUI (or COMFYUI_PATH); default: a prepared one")
    options = parser.parse_args()
    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    import comfy_host
    from benchmarks.encode import write_checkpoint

    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="pidiff-cancel-") as folder:
        models = Path(folder, "models", "pidiff")
        models.mkdir(parents=True)
        if any(ENCODER in json.dumps(jobs[name]) for name in options.only):
            write_checkpoint(models / ENCODER, seed=options.seed)
        host = comfy_host.resolve(options.comfyui)
        report: dict[str, Any] = {"host": host.name, "seed": options.seed}
        with comfy_host.ComfyServer(host, base=Path(folder)) as server:
            server.upload_image(large_photo(), name=PHOTO)
            for name in options.only:
                report[name] = cancelled(server, *jobs[name], rounds=options.rounds, rng=rng)
                environment.say(f"{name}: {json.dumps(report[name])}")
    unmeasured = [name for name in options.only if not report[name]["rounds"]]
    if unmeasured:
        environment.say(f"Every job ended before Cancel: {', '.join(unmeasured)}. Ask for more --rounds.")
    report["passed"] = not unmeasured and all(report[name]["longest_s"] <= LIMIT_S for name in options.only)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def cancelled(
    server: ComfyClient, workflow: Workflow, node_id: str, *, rounds: int, rng: random.Random
) -> dict[str, Any]:
    """The time of a node's work, and how long it went on after Cancel."""
    work_s = _run(server, workflow, node_id, after_s=None)
    after: list[float] = []
    for _ in range(rounds):
        went_on_s = _run(server, workflow, node_id, after_s=rng.uniform(0.0, work_s))
        if went_on_s is not None:
            after.append(went_on_s)
    return {
        "work_s": round(work_s, 2),
        "rounds": len(after),
        "median_s": round(statistics.median(after), 3) if after else None,
        "longest_s": round(max(after), 3) if after else None,
    }


def _run(server: ComfyClient, workflow: Workflow, node_id: str, *, after_s: float | None) -> float | None:
    """Run the job and press Cancel `after_s` after the node has begun; None: never.

    Returns:
        How long the job went on after Cancel, or None if it ended undisturbed; without Cancel the node's time.
    """
    from comfy_client import WorkflowError

    moments: dict[str, float] = {}

    def press() -> None:
        moments["pressed"] = time.monotonic()
        server.interrupt()

    timer = threading.Timer(after_s or 0.0, press)

    def begin(begun: str) -> None:
        if begun == node_id:
            moments["began"] = time.monotonic()
            if after_s is not None:
                timer.start()
        elif "began" in moments:
            moments.setdefault("ended", time.monotonic())

    try:
        server.run(workflow, on_begin=begin)
    except WorkflowError as error:
        if error.exception_type or "pressed" not in moments:
            raise
        return time.monotonic() - moments["pressed"]
    finally:
        timer.cancel()
    server.request("/free", json.dumps({"free_memory": True, "unload_models": True}).encode())  # nothing is cached
    return moments["ended"] - moments["began"] if after_s is None else None


def works() -> dict[str, tuple[Workflow, str]]:
    """By the name of the work: a job, and the node in it that does the work."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    def encode(model: list[Any], image: str, detector: str) -> dict[str, Any]:
        return node(
            "EncodeIdentityW+",
            pidiff_model=model,
            image=[image, 0],
            detector=detector,
            face_index=0,
            on_no_face="error",
        )

    def shown(node_id: str, slot: int = 0) -> dict[str, Any]:
        return node("PreviewImage", images=[node_id, slot])

    load = node("LoadPIDiff", adapter="none", encoder=ENCODER)
    photo = node("LoadImage", image=PHOTO)
    codes = {"1": load, "2": photo, "3": encode(PUBLISHED, "2", "whole image")}
    edit = node(
        "StyleEdit", wplus=["3", 0], pidiff_model=PUBLISHED, direction="none", amount=1.0, coarse=True, medium=True,
        fine=True, mix=0.5,
    )  # fmt: skip
    paste = node(
        "PIDiffPastePortrait", pidiff_model=PUBLISHED, image=["2", 0], wplus=["3", 0], edited=["4", 0],
        mode="keep details", feather=0.08, match_colour=True, area="head",
    )  # fmt: skip
    training = {
        "1": node("PIDiffLoadMini"),
        "2": node("LoadImage", image="pidiff_sample_1.png"),
        "3": encode(MINI, "2", "whole image"),
        "4": node("CLIPTextEncode", text="a photo of a person", clip=["1", 1]),
        "5": node(
            "PIDiffTuneIdentity", model=["1", 0], vae=["1", 2], positive=["4", 0], pidiff_model=MINI, wplus=["3", 0],
            image=["2", 0], face_mask=["3", 2], steps=100, rank=4, code_range=1.0, size_px=128, preview_every=25,
        ),
        "6": node("PIDiffSaveCodes", wplus=["5", 0], filename_prefix="pidiff/tuned"),
    }  # fmt: skip
    return {
        "faces": ({"1": node("PIDiffLoadMini"), "2": photo, "3": encode(MINI, "2", "mtcnn"), "9": shown("3", 1)}, "3"),
        "loading": ({**codes, "9": shown("3", 1)}, "1"),
        "encode": ({**codes, "9": shown("3", 1)}, "3"),
        "preview": (
            {**codes, "4": node("PIDiffPreviewCodes", pidiff_model=PUBLISHED, wplus=["3", 0]), "9": shown("4")}, "4",
        ),
        "paste": ({**codes, "4": edit, "5": paste, "9": shown("5")}, "5"),
        "training": (training, "5"),
    }  # fmt: skip


def large_photo() -> bytes:
    """NASA's portrait of Eileen Collins (public domain) in a picture of 3000x2000 px, as PNG."""
    from PIL import Image
    from skimage import data

    picture = Image.new("RGB", (3000, 2000), (90, 110, 130))
    picture.paste(Image.fromarray(data.astronaut()).resize((900, 900)), (1200, 500))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
