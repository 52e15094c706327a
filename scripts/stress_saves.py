"""Save people's codes in real servers that are killed, and in several servers with one output folder.

    python scripts/stress_saves.py [--kills 200] [--minutes M] [--saves 400] [--servers 2] [--seed 0] [--version 0.30.0]

Kills: a server saves codes without a pause and is killed at a random moment; every file that it has left must be
readable, and the first save after the next start removes what was half written. Saves: several servers write under one
prefix at the same time; there must be as many files as saves. The last line is one JSON object; the exit status is 1 if
a file is lost, damaged or left over.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    from comfy_host import ComfyServer, Host

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "people/anna"
QUEUED = 30  # saves that wait in the queue of a server that will be killed
COUNTS = ("kills", "files", "lost", "half_written", "left_over")


def save_job(number: int, photo: str) -> dict[str, Any]:
    """A job that saves codes; the number makes ComfyUI run it although all else is the same."""
    return {
        "1": {"class_type": "PIDiffLoadMini", "inputs": {}},
        "2": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "3": {
            "class_type": "EncodeIdentityW+",
            "inputs": {
                "pidiff_model": ["1", 3], "image": ["2", 0], "detector": "whole image", "face_index": 0,
                "on_no_face": "error",
            },
        },
        "4": {
            "class_type": "StyleEdit",
            "inputs": {
                "wplus": ["3", 0], "pidiff_model": ["1", 3], "direction": "smile", "amount": number / 1000,
                "coarse": True, "medium": True, "fine": True,
            },
        },
        "5": {"class_type": "PIDiffSaveCodes", "inputs": {"wplus": ["4", 0], "filename_prefix": PREFIX}},
    }  # fmt: skip


def upload_photo(server: ComfyServer) -> str:
    """A picture of noise: what is saved does not matter here."""
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return server.upload_image(file.getvalue(), name="noise.png")


def saved(output: Path) -> tuple[int, int]:
    """How many people's files there are, and how many temporary ones. A damaged file is an error."""
    from pidiff_core.wplus.code_files import load_codes

    folder = (output / PREFIX).parent
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        load_codes(file)
    return len(files), len(list(folder.glob(".pidiff-*.tmp")))


def kill_while_saving(
    host: Host, *, kills: int, rng: random.Random, base: Path, report: dict[str, int], minutes: float = math.inf
) -> None:
    """Start, save, kill, start again; after `minutes` no further kill.

    Args:
        report: COUNTS from 0, counted up here. Kills that were made; files at the end; `lost`: files that vanished;
            `half_written`: temporary files that kills have left; `left_over`: those that are there after the next start
            and its first save.
    """
    from comfy_host import ComfyServer

    end = time.monotonic() + 60 * minutes
    while True:
        with ComfyServer(host, base=base) as server:
            photo = upload_photo(server)
            server.run(save_job(0, photo))
            files, temporary = saved(base / "output")
            report["lost"] += max(0, report["files"] - files)
            report["left_over"] += temporary
            if report["kills"] == kills or time.monotonic() > end:
                report["files"] = files
                return
            for number in range(1, QUEUED + 1):
                server.queue(save_job(number, photo))
            time.sleep(rng.uniform(0.0, 2.0))
            server.kill()
        report["kills"] += 1
        report["files"], temporary = saved(base / "output")
        report["half_written"] += temporary


def save_in_all(servers: Sequence[ComfyServer], output: Path, *, saves: int) -> dict[str, int]:
    """Save in all servers at the same time: how many saves were asked for, and how many files there are."""
    before, _ = saved(output) if (output / PREFIX).parent.is_dir() else (0, 0)
    failures: list[BaseException] = []

    def save(server: ComfyServer, numbers: range) -> None:
        try:
            photo = upload_photo(server)
            for number in numbers:
                server.run(save_job(number, photo))
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=save, args=(server, range(first, saves, len(servers))))
        for first, server in enumerate(servers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    files, temporary = saved(output)
    return {"saves": saves, "new_files": files - before, "left_over": temporary}


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="fewer kills after this time")
    parser.add_argument("--saves", type=int, default=400)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--version", help="of ComfyUI; default: the newest")
    options = parser.parse_args()
    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    import comfy_host

    host = comfy_host.prepare(options.version or comfy_host.DEFAULT)
    report: dict[str, Any] = {"version": host.name, "seed": options.seed}
    with tempfile.TemporaryDirectory(prefix="pidiff-saves-") as folder:
        if options.kills:
            rng = random.Random(options.seed)
            report["killed"] = dict.fromkeys(COUNTS, 0)
            try:
                kill_while_saving(
                    host,
                    kills=options.kills,
                    rng=rng,
                    base=Path(folder, "killed"),
                    minutes=options.minutes,
                    report=report["killed"],
                )
            except BaseException:
                print(json.dumps(report))  # what was found until then
                raise
        if options.saves:
            output = Path(folder, "output")
            output.mkdir()
            shared = ("--output-directory", str(output))
            servers = [
                comfy_host.ComfyServer(host, base=Path(folder, str(number)), arguments=shared).__enter__()
                for number in range(options.servers)
            ]
            try:
                report["shared"] = save_in_all(servers, output, saves=options.saves)
            finally:
                for server in servers:
                    server.stop()
    print(json.dumps(report))
    killed, both = report.get("killed", {}), report.get("shared", {})
    broken = killed.get("lost") or killed.get("left_over") or both.get("left_over")
    return 1 if broken or both.get("new_files") != both.get("saves") else 0


if __name__ == "__main__":
    raise SystemExit(main())
