"""A long run of a real ComfyUI: checks that memory is flat and that the last picture equals the first.

    python scripts/soak.py [--jobs 200] [--steps 4] [--photo P ...] [--comfyui PATH]

Queues the shipped mini workflow many times with changing people, picture sizes, strengths and seeds, and reads the
server's resident memory after every job. The last job repeats the first. Memory is flat if the median of the last tenth
of the jobs is within 2 % of the median of the first tenth after a warm-up (a quarter of the jobs). The last line is one
JSON object; the exit status is 1 if memory or picture have changed.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    import numpy as np

    from comfy_client import Result, Workflow
    from comfy_host import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "api" / "pidiff_mini.json"
SIZES_PX = ((128, 128), (192, 128), (128, 192))  # latents of 16x16, 24x16, 16x24
STRENGTHS = (1.0, 0.6, 0.0, 1.4)
GROWTH = 0.02  # of the resident memory, up or down


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of each job")
    parser.add_argument("--photo", type=Path, nargs="+", help="people to alternate; default: variants of one portrait")
    parser.add_argument("--comfyui", type=Path, help="your own ComfyUI (or COMFYUI_PATH); default: a prepared one")
    options = parser.parse_args()
    if options.jobs < 20:
        parser.error(
            f"--jobs is {options.jobs}: it must be at least 20, because a tenth of the jobs must be two or more"
        )
    import comfy_host

    pictures = [path.read_bytes() for path in options.photo] if options.photo else portraits()
    with comfy_host.ComfyServer(comfy_host.resolve(options.comfyui)) as server:
        report = soak(server, pictures, jobs=options.jobs, steps=options.steps, say=environment.say)
    print(json.dumps(report))
    return 0 if report["memory_is_flat"] and report["first_is_last"] else 1


def soak(server: ComfyServer, pictures: list[bytes], *, jobs: int, steps: int, say: Any = None) -> dict[str, Any]:
    """Run the jobs, one after the other; `pictures` are files of the people's photos."""
    import numpy as np

    names = [server.upload_image(picture, name=f"person_{number}.png") for number, picture in enumerate(pictures)]
    workflow = json.loads(WORKFLOW.read_text())
    process = process_of(server)
    resident: list[int] = []
    first: Any = None
    began = time.monotonic()
    for job in range(jobs):
        number = 0 if job == jobs - 1 else job
        result = server.run(job_of(workflow, number, names=names, steps=steps))
        resident.append(process.memory_info().rss)
        if job == 0:
            first = drawn(server, result)
        if say is not None and (job + 1) % max(jobs // 10, 1) == 0:
            say(f"{job + 1} jobs, {time.monotonic() - began:.0f} s, {resident[-1] / 1e6:.0f} MB resident")
    sampler = next(node_id for node_id, node in workflow.items() if node["class_type"] == "KSampler")
    assert sampler in result.executed, "the last job was answered from ComfyUI's cache"
    tenth, warm = jobs // 10, jobs // 4
    start, end = (statistics.median(part) for part in (resident[warm : warm + tenth], resident[-tenth:]))
    return {
        "jobs": jobs,
        "seconds": round(time.monotonic() - began, 1),
        "resident_start_mb": round(start / 1e6, 1),
        "resident_end_mb": round(end / 1e6, 1),
        "growth": end / start - 1,
        "memory_is_flat": abs(end / start - 1) <= GROWTH,
        "first_is_last": bool(np.array_equal(first, drawn(server, result))),
    }


def job_of(workflow: Workflow, number: int, *, names: list[str], steps: int) -> Workflow:
    """The workflow of job `number`: the person changes with every job, size and strength less often."""
    job = copy.deepcopy(workflow)

    def inputs(kind: str) -> dict[str, Any]:
        return next(node["inputs"] for node in job.values() if node["class_type"] == kind)

    inputs("LoadImage")["image"] = names[number % len(names)]
    width, height = SIZES_PX[number // len(names) % len(SIZES_PX)]
    inputs("EmptyLatentImage").update(width=width, height=height)
    inputs("ApplyIdentityAdapter")["strength"] = STRENGTHS[number % len(STRENGTHS)]
    inputs("KSampler").update(seed=number, steps=steps)
    return job


def drawn(server: ComfyServer, result: Result) -> np.ndarray:
    """The saved picture's pixels (H, W, 3), without the file's metadata."""
    import numpy as np
    from PIL import Image

    saved = next(image for image in result.images() if image["type"] == "output")
    return np.asarray(Image.open(io.BytesIO(server.fetch_image(saved))).convert("RGB"))


def process_of(server: ComfyServer) -> Any:
    """The server's process, which is a child of this one."""
    import psutil

    port = server.address.rsplit(":", 1)[1]
    return next(child for child in psutil.Process().children() if port in child.cmdline())


def portraits() -> list[bytes]:
    """NASA's portrait of Eileen Collins (public domain), the same mirrored, and with red and blue exchanged, as PNG."""
    from PIL import Image
    from skimage import data

    portrait = data.astronaut()
    files = []
    for pixels in (portrait, portrait[:, ::-1], portrait[..., ::-1]):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


if __name__ == "__main__":
    raise SystemExit(main())
