"""Jobs of several clients at once in a real ComfyUI, bad ones among them: pictures, memory, files and sockets.

    python scripts/soak.py [--jobs 500] [--clients 8] [--steps 4] [--photo P ...] [--comfyui PATH]

First the shipped mini workflow runs alone with each combination of person, picture size and strength. Then the clients
queue such jobs at the same time; one in five is a job that must fail. The picture of every good job must equal that of
its lone run bit for bit, and every bad job must be answered by its own error. The server's resident memory is read
after every job: the median of the last tenth of the jobs must be within 2 % of the median of the first tenth after a
warm-up (a quarter of the jobs). When the clients have left, the server must have as many open files and sockets as
before they came, and there must be one picture for each good job and no temporary file. The last line is one JSON
object; the exit status is 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    import numpy as np

    from comfy_client import ComfyClient, Result, Workflow
    from comfy_host import ComfyServer, Host

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "api" / "pidiff_mini.json"
SIZES_PX = ((128, 128), (192, 128), (128, 192))  # latents of 16x16, 24x16, 16x24
STRENGTHS = (1.0, 0.6, 0.0, 1.4)
GROWTH = 0.02  # of the resident memory, up or down
BAD_EVERY = 5
# Jobs that must fail: a node's type, one of its inputs, the value, and a part of the error's text.
BAD = (
    ("LoadImage", "image", "wall.png", "face"),
    ("LoadImage", "image", "not_there.png", "not_there.png"),
    ("ApplyIdentityAdapter", "strength", "nan", "strength"),
    ("ApplyIdentityAdapter", "site_strengths", "nowhere=1", "nowhere"),
    ("EncodeIdentityW+", "landmarks", "left eye", "landmark"),
)
# Newer versions keep the results of all jobs for as long as there is memory, older ones those of the last job.
KEEP_ONE_JOB = "--cache-classic"


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
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
    host = comfy_host.resolve(options.comfyui)
    report = soak(host, pictures, jobs=options.jobs, clients=options.clients, steps=options.steps, say=environment.say)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def soak(
    host: Host, pictures: list[bytes], *, jobs: int, clients: int, steps: int, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Start a server and run the jobs.

    Args:
        pictures: files of the people's photos.
        say: is told what was done so far.
    """
    from comfy_host import ComfyServer

    with tempfile.TemporaryDirectory(prefix="pidiff-soak-") as folder:
        base, temporary = Path(folder, "comfyui"), Path(folder, "temporary")
        temporary.mkdir()
        with ComfyServer(host, base=base, arguments=(KEEP_ONE_JOB,), environ={"TMPDIR": str(temporary)}) as server:
            crowd = Crowd(server, pictures, jobs=jobs, steps=steps, say=say)
            before = crowd.run_alone()
            saved = _files(base / "output")
            began = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                for client in [pool.submit(crowd.run_client, number) for number in range(clients)]:
                    client.result()
            seconds = time.monotonic() - began
            files, sockets = crowd.handles_after(before)
            saved = _files(base / "output") - saved
            left_over = _files(temporary) + len([path for path in base.rglob("*") if ".tmp" in path.name])
    tenth = jobs // 10
    warm = max(jobs // 4, min(100, jobs // 2))  # the allocator's arenas are complete after 60 jobs or so
    start, end = (statistics.median(crowd.resident[part]) for part in (slice(warm, warm + tenth), slice(-tenth, None)))
    counts = crowd.counts
    report = {
        "host": host.name,
        "jobs": jobs,
        "clients": clients,
        "seconds": round(seconds, 1),
        "good": counts["good"],
        "equal_to_the_lone_run": counts["equal"],
        "pictures": saved,
        "bad": jobs - counts["good"],
        "answered_by_their_error": counts["answered"],
        "resident_start_mb": round(start / 1e6, 1),
        "resident_end_mb": round(end / 1e6, 1),
        "growth": round(end / start - 1, 5),
        "more_open_files": files,
        "more_sockets": sockets,
        "temporary_files": left_over,
    }
    passed = (
        report["good"] == report["equal_to_the_lone_run"] == report["pictures"]
        and report["bad"] == report["answered_by_their_error"]
        and abs(end / start - 1) <= GROWTH
        and files <= 0
        and sockets <= 0
        and left_over == 0
    )
    return {**report, "passed": passed}


@dataclass
class Crowd:
    """Several clients of one server.

    Attributes:
        alone: pictures (H, W, 3) of the lone runs, by the kind of job.
        resident: memory of the server in bytes after each job.
        counts: of good jobs, those of them that equal their lone run, and bad jobs that were answered by their error.
    """

    server: ComfyServer
    pictures: list[bytes]
    jobs: int
    steps: int
    say: Callable[[str], None]
    workflow: Workflow = field(default_factory=lambda: json.loads(WORKFLOW.read_text()))
    alone: list[np.ndarray] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    queued: int = 0

    def run_alone(self) -> tuple[int, int]:
        """Every kind of job, one after the other; returns the open files and the sockets after them."""
        self.process = process_of(self.server)
        self.server.upload_image(wall(), name="wall.png")
        names = self._upload(self.server, "alone")
        for kind in range(len(self.pictures) * len(SIZES_PX) * len(STRENGTHS)):
            self.alone.append(self._draw(self.server, job_of(self.workflow, kind, names=names, steps=self.steps)))
        self.say(f"{len(self.alone)} lone jobs done")
        return handles(self.process)

    def run_client(self, number: int) -> None:
        """Queue one job after the other, until all clients together have queued as many as asked for."""
        import numpy as np

        from comfy_client import ComfyClient

        client = ComfyClient(self.server.address)
        # Files of its own: an equal job of another client is not answered from ComfyUI's cache.
        names = self._upload(client, f"client_{number}")
        began = time.monotonic()
        while (job := self._next()) is not None:
            kind = job % len(self.alone)
            workflow = job_of(self.workflow, kind, names=names, steps=self.steps)
            if job % BAD_EVERY == 0:
                result = Counter(answered=self._is_answered(client, workflow, BAD[job // BAD_EVERY % len(BAD)]))
            else:
                picture = self._draw(client, workflow)
                result = Counter(good=1, equal=int(np.array_equal(picture, self.alone[kind])))
            with self.lock:
                self.counts += result
                self.resident.append(self.process.memory_info().rss)
                if len(self.resident) % max(self.jobs // 10, 1) == 0:
                    spent, megabytes = time.monotonic() - began, self.resident[-1] / 1e6
                    self.say(f"{len(self.resident)} jobs, {spent:.0f} s, {megabytes:.0f} MB resident")

    def handles_after(self, before: tuple[int, int], *, patience_s: float = 10.0) -> tuple[int, int]:
        """How many open files and sockets there are more than before; connections may take a moment to close."""
        deadline = time.monotonic() + patience_s
        while True:
            more = tuple(now - then for now, then in zip(handles(self.process), before))
            if max(more) <= 0 or time.monotonic() > deadline:
                return more
            time.sleep(0.2)

    def _is_answered(self, client: ComfyClient, workflow: Workflow, bad: tuple[str, str, Any, str]) -> bool:
        """Whether a job with a bad value gets an error that names it."""
        from comfy_client import WorkflowError

        node_type, name, value, expected = bad
        next(node for node in workflow.values() if node["class_type"] == node_type)["inputs"][name] = value
        try:
            client.run(workflow)
            answer = "no error"
        except WorkflowError as error:
            answer = str(error)
        if expected not in answer:
            self.say(f"{node_type}.{name} = {value!r}: {answer}")
        return expected in answer

    def _next(self) -> int | None:
        with self.lock:
            self.queued += 1
            return self.queued - 1 if self.queued <= self.jobs else None

    def _upload(self, client: ComfyClient, prefix: str) -> list[str]:
        return [client.upload_image(data, name=f"{prefix}_{number}.png") for number, data in enumerate(self.pictures)]

    def _draw(self, client: ComfyClient, workflow: Workflow) -> np.ndarray:
        result = client.run(workflow)
        sampler = next(node_id for node_id, node in workflow.items() if node["class_type"] == "KSampler")
        assert sampler in result.executed, "a job was answered from ComfyUI's cache"
        return drawn(client, result)


def job_of(workflow: Workflow, kind: int, *, names: list[str], steps: int) -> Workflow:
    """A job of this kind: the person changes with every kind, size and strength less often."""
    job = copy.deepcopy(workflow)

    def inputs(node_type: str) -> dict[str, Any]:
        return next(node["inputs"] for node in job.values() if node["class_type"] == node_type)

    inputs("LoadImage")["image"] = names[kind % len(names)]
    width, height = SIZES_PX[kind // len(names) % len(SIZES_PX)]
    inputs("EmptyLatentImage").update(width=width, height=height)
    inputs("ApplyIdentityAdapter")["strength"] = STRENGTHS[kind % len(STRENGTHS)]
    inputs("KSampler").update(seed=kind, steps=steps)
    return job


def drawn(client: ComfyClient, result: Result) -> np.ndarray:
    """The saved picture's pixels (H, W, 3), without the file's metadata."""
    import numpy as np
    from PIL import Image

    saved = next(image for image in result.images() if image["type"] == "output")
    return np.asarray(Image.open(io.BytesIO(client.fetch_image(saved))).convert("RGB"))


def process_of(server: ComfyServer) -> Any:
    """The server's process, which is a child of this one."""
    import psutil

    port = server.address.rsplit(":", 1)[1]
    return next(child for child in psutil.Process().children() if port in child.cmdline())


def handles(process: Any) -> tuple[int, int]:
    """Open files and sockets of a process."""
    return len(process.open_files()), len(process.net_connections())


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def wall() -> bytes:
    """A picture without a face, as PNG."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    gradient = np.linspace(0, 255, 256, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(gradient[:, None], gradient[None, :], gradient[:1]), axis=-1)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


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
