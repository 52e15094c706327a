"""Read mutated files with every reader of the pack, or call every node with odd values: each must work or raise a
PIDiffError, within memory and time.

    python scripts/fuzz.py [--inputs 2000] [--minutes M] [--seed 0] [--workers 1] [--readers codes table ...] [--only N]
    python scripts/fuzz.py --nodes 20000 [--minutes M] [--seed 0] [--workers 1] [--only N]

Nodes run in ComfyUI's own validation and executor, see fuzz_nodes.py. Input number n of a seed is always the same, so
`--only n` repeats one. Inputs are read in processes of their own, which may use 1 GiB more memory than after their
imports, and 10 s of processor time for each input. Every failure is printed with its number; files are kept in
outputs/fuzz/. The last line is one JSON object; the exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import select
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import environment

with contextlib.suppress(ImportError):  # in the environment that `environment.ensure` starts this script in again
    import psutil

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "outputs" / "fuzz"
MEMORY_BYTES = 1 << 30
TIME_S = 10.0  # of the processor, so that other programs do not count
READERS = ("codes", "directions", "table", "adapter", "encoder", "yunet", "parser", "landmarks", "config")


class Worker:
    """A process that reads inputs, or calls nodes, one after the other.

    Args:
        arguments: of this script, for that process.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, __file__, "--worker", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._cpu_s = psutil.Process(self._process.pid).cpu_times
        self._answer(120.0)  # its imports

    def read(self, number: int) -> dict[str, Any]:
        """What came of an input; a worker that ends or takes too long is a failure, and is of no more use."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        answer = self._answer(TIME_S)
        if not answer:
            self.stop()
            failure = "the process ended" if answer == "" else f"longer than {TIME_S:g} s"
            return {"number": number, "outcome": "failure", "failure": failure}
        return json.loads(answer)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _answer(self, limit_s: float) -> str | None:
        """A line from the process; empty if it ends, None if it uses more time of the processor than that."""
        assert self._process.stdout is not None
        began, ready = self._used_s(), []
        while not ready and self._used_s() - began < limit_s:
            ready, _, _ = select.select([self._process.stdout], [], [], 0.2)
        return self._process.stdout.readline() if ready else None

    def _used_s(self) -> float:
        with contextlib.suppress(psutil.Error):
            times = self._cpu_s()
            return times.user + times.system
        return math.inf


def fuzz(numbers: Iterable[int], arguments: Sequence[str], *, workers: int = 1) -> list[dict[str, Any]]:
    """What came of the inputs of these numbers, in no order; failures are printed."""
    results: list[dict[str, Any]] = []
    lock, pending = threading.Lock(), iter(numbers)

    def work() -> None:
        worker = Worker(arguments)
        while True:
            with lock:
                number = next(pending, None)
            if number is None:
                break
            if not worker.is_alive:
                worker = Worker(arguments)
            result = worker.read(number)
            if result["failure"]:
                environment.say(json.dumps(result))
            results.append(result)
        worker.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def serve_nodes(seed: int) -> None:
    """A worker's own loop, for calls of nodes."""
    import logging
    import warnings

    import comfy_host
    from in_process import import_comfy, load_pack

    logging.disable()
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory(prefix="pidiff-fuzz-") as folder:
        base = Path(folder, "comfyui")
        base.mkdir()
        import_comfy(comfy_host.DEFAULT, base)
        import torch

        import fuzz_nodes

        torch.set_num_threads(1)
        caller = fuzz_nodes.NodeCaller(load_pack(), base)
        for name in caller.nodes:  # what is imported at the first use
            caller.run(fuzz_nodes.valid_call(name, random.Random(seed), caller))
        _limit_memory()
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            call = fuzz_nodes.random_call(random.Random(f"{seed} {int(line)}"), caller)
            outcome = caller.run(call)
            failure = f"{call}: {outcome.failure}" if outcome.failure else ""
            result = {"number": int(line), "outcome": outcome.kind, "failure": failure}
            print(json.dumps(result), file=answers, flush=True)


def serve(seed: int, names: list[str]) -> None:
    """A worker's own loop: numbers on the standard input, results on the standard output."""
    import logging
    import warnings

    import torch

    import fuzz_inputs

    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    reads = fuzz_inputs.readers()
    seeds = fuzz_inputs.seeds()
    with tempfile.TemporaryDirectory(prefix="pidiff-fuzz-") as folder:
        for name, (suffix, files) in seeds.items():  # what is imported at the first use
            for number, content in enumerate(files):
                path = Path(folder, f"{number}{suffix}")
                path.write_bytes(content)
                failure_of(reads[name], path)
    _limit_memory()
    answers = sys.stdout
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory(prefix="pidiff-fuzz-") as folder:
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            number = int(line)
            name, path = write_input(number, seed=seed, names=names, seeds=seeds, folder=Path(folder))
            failure = failure_of(reads[name], path)
            if failure:
                OUT.mkdir(parents=True, exist_ok=True)
                (OUT / f"{seed}_{number}_{name}{path.suffix}").write_bytes(path.read_bytes())
            path.unlink()
            result = {"number": number, "outcome": "failure" if failure else name, "failure": failure}
            print(json.dumps(result), file=answers, flush=True)


def write_input(
    number: int, *, seed: int, names: list[str], seeds: dict[str, tuple[str, list[bytes]]], folder: Path
) -> tuple[str, Path]:
    """An input's reader and file."""
    import fuzz_inputs

    rng = random.Random(f"{seed} {number}")
    name = rng.choice(names)
    suffix, files = seeds[name]
    path = folder / f"input_{number}{suffix}"
    path.write_bytes(fuzz_inputs.mutated(rng.choice(files), rng))
    return name, path


def failure_of(read: Any, path: Path) -> str:
    """Empty if the file is read or refused by a PIDiffError; else the error and where it came from."""
    from pidiff_core.errors import PIDiffError

    try:
        read(path)
    except PIDiffError as error:
        text = str(error)
        with contextlib.suppress(UnicodeEncodeError):
            text.encode()
            return ""
        return f"a sentence that cannot be encoded: {text!a}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]!a} at {Path(where.filename).name}:{where.lineno}"
    return ""


def _limit_memory() -> None:
    """As much address space as is in use now and 1 GiB; only on Linux, and no limit elsewhere."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    environment.ensure(__file__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--nodes", type=int, help="call nodes this often, and read no files")
    parser.add_argument("--minutes", type=float, help="stop after this time, with fewer inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--only", type=int, help="read this input and no other")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.append(str(ROOT))  # at the end: in front, nodes/ would hide ComfyUI's nodes.py
    if options.worker:
        serve(options.seed, options.readers) if options.nodes is None else serve_nodes(options.seed)
        return 0
    began = time.monotonic()
    end = math.inf if options.minutes is None else began + 60 * options.minutes
    count = options.inputs if options.nodes is None else options.nodes
    wanted = range(count) if options.only is None else [options.only]

    def in_time() -> Iterator[int]:
        for number in wanted:
            if time.monotonic() > end:
                return
            yield number

    what = ["--readers", *options.readers] if options.nodes is None else ["--nodes", "1"]
    results = fuzz(in_time(), ["--seed", str(options.seed), *what], workers=options.workers)
    outcomes = Counter(result["outcome"] for result in results)
    failures = outcomes.pop("failure", 0)
    seconds = round(time.monotonic() - began, 1)
    report = {"inputs": len(results), "seed": options.seed, "failures": failures, "seconds": seconds}
    print(json.dumps({**report, "outcomes": outcomes}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
