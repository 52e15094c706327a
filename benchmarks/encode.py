"""Time and memory from an e4e checkpoint's file to the codes, compared with the published inference code.

A checkpoint in the published layout, encoder and decoder of the full size with random weights, is written to a
temporary folder. `reference_e4e.py` is the reference; ours is the code that LoadPIDiff and EncodeIdentityW+ call.

time       one picture through the encoder, in turn: the reference in float32, ours in float32 and in bfloat16. The
           median of several fresh processes' medians, because the memory layout of a process affects its times.
codes      the lowest cosine between our offsets of a style and the reference's; the average code, which would flatter
           it, is not added. The random network's batch norms hold the statistics of their inputs, as after training.
load       from the path to an encoder that is ready, in a fresh process that has imported everything; median.
memory     the highest resident memory of such a process that loads, encodes one picture in float32 and ends; median.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import environment
from benchmarks import reference_e4e
from benchmarks.turns import in_turn

# What the project asks of itself on two CPU cores.
ASKED = {
    "time_ratio": 1.0,
    "bf16_time_ratio": 0.6,
    "bf16_cosine": 0.999,
    "load_time_ratio": 0.35,
    "memory_ratio": 0.75,
    "largest_error": 1e-4,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="pictures through each encoder in a process")
    parser.add_argument("--loads", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the picture")
    parser.add_argument(
        "--probe", choices=("ours", "reference", "time"), help=argparse.SUPPRESS
    )  # one of the fresh processes
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    picture = smooth_pictures(1, seed=options.seed + 1)
    if options.probe:
        if options.probe == "time":
            found = codes_and_time(options.file, picture, repeats=options.repeats)
        else:
            found = load_and_encode(options.probe, options.file, picture)
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory(prefix="pidiff-encode-") as folder:
        path = Path(folder) / "random_e4e.pt"
        write_checkpoint(path, seed=options.seed)
        report = measure(path, options)
    report |= {"threads": options.threads, "repeats": options.repeats, "loads": options.loads, "seed": options.seed}
    show(report)
    print(json.dumps(report))
    return 0


def smooth_pictures(count: int, *, seed: int) -> Tensor:
    """Random pictures (count, 3, 256, 256) in [-1, 1] with more in the low frequencies, as photos have."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 16, 16, generator=rng) * 2 - 1
    return F.interpolate(coarse, size=256, mode="bicubic").clamp(-1, 1)


def write_checkpoint(path: Path, *, seed: int) -> None:
    """A file in the published layout: `state_dict` of encoder and decoder, `latent_avg`, `opts`."""
    rng = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        encoder, decoder = reference_e4e.Encoder(), reference_e4e.generator()
    for network in (encoder, decoder):
        state = {key: random_value(key, tensor, rng) for key, tensor in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
    calibrate(encoder, seed=seed)
    state = {f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{key}": tensor for key, tensor in decoder.state_dict().items()}
    latent_avg = torch.randn(1, 512, generator=rng).expand(18, -1).clone()
    opts = {"stylegan_size": 1024, "encoder_type": "Encoder4Editing", "start_from_latent_avg": True}
    torch.save({"state_dict": state, "latent_avg": latent_avg, "opts": opts}, path)


def random_value(key: str, tensor: Tensor, rng: torch.Generator) -> Tensor:
    """Weights of sizes that keep the signal within a few units."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if key.endswith("kernel"):
        return reference_e4e.blur_kernel()
    noise = torch.randn(tensor.shape, generator=rng)
    if tensor.ndim == 4:  # convolutions: He's variance
        return noise * (2.0 / tensor[0].numel()) ** 0.5
    if tensor.ndim == 1 and key.endswith("weight"):  # batch norm, PReLU
        return 0.75 + 0.1 * noise
    return 0.1 * noise if tensor.ndim == 1 else noise


def calibrate(encoder: reference_e4e.Encoder, *, seed: int) -> None:
    """Give the batch norms the statistics of what goes through them."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of the batches
    with torch.no_grad():
        encoder.body(encoder.input_layer(smooth_pictures(2, seed=seed + 2)))


def load(way: str, path: Path, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """An encoder that is ready, pictures to offsets (B, 18, 512); `way` is "ours" or "reference"."""
    if way == "reference":
        return reference_e4e.Reference(str(path)).encoder
    from pidiff_core.files.loading import load_pidiff

    model = load_pidiff(adapter=None, encoder=path, dtype=dtype)
    model.require("encoder", purpose="to be measured")
    return lambda pictures: model.require("encoder", purpose="to be measured")(pictures)


def load_and_encode(way: str, path: Path, picture: Tensor) -> dict[str, float]:
    """Load and encode in this process."""
    import pidiff_core.files.loading  # noqa: F401 -- imports are no part of opening a file

    start = time.perf_counter()
    encoder = load(way, path)
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        encoder(picture)
    return {"load_s": seconds, "memory_mb": peak_mb()}


def peak_mb() -> float:
    """The highest resident memory of this process so far, in units of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage reports the parent's peak if that was higher when it started this process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(path: Path, options: argparse.Namespace) -> dict[str, float]:
    """Medians over fresh processes, in turn. The file was just written: it is read from the cache."""
    results: dict[str, list[dict[str, float]]] = {"reference": [], "ours": [], "time": []}
    for _ in range(options.loads):
        for way, found in results.items():
            command = [sys.executable, str(environment.ROOT / "scripts" / "bench.py"), "encode", "--probe", way]
            for name in ("file", "threads", "seed", "repeats"):
                command += [f"--{name}", str(path if name == "file" else getattr(options, name))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    report = {}
    for name, ratio in (("load_s", "load_time_ratio"), ("memory_mb", "memory_ratio")):
        ours, reference = (statistics.median(run[name] for run in results[way]) for way in ("ours", "reference"))
        report |= {f"{name}": ours, f"reference_{name}": reference, ratio: ours / reference}
    return report | {name: statistics.median(run[name] for run in results["time"]) for name in results["time"][0]}


def codes_and_time(path: Path, picture: Tensor, *, repeats: int) -> dict[str, float]:
    """Codes and times of one process."""
    ways = {
        "reference": load("reference", path),
        "ours": load("ours", path),
        "bf16": load("ours", path, torch.bfloat16),
    }
    inputs = {name: picture.bfloat16() if name == "bf16" else picture for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        offsets = {name: encoder(inputs[name]).float() for name, encoder in ways.items()}
        for number in range(repeats):
            for name in in_turn(ways, number):
                start = time.perf_counter()
                ways[name](inputs[name])
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    wanted = offsets["reference"]
    return {
        "time_s": medians["ours"],
        "bf16_time_s": medians["bf16"],
        "reference_time_s": medians["reference"],
        "time_ratio": medians["ours"] / medians["reference"],
        "bf16_time_ratio": medians["bf16"] / medians["reference"],
        "bf16_cosine": float(F.cosine_similarity(offsets["bf16"], wanted, dim=-1).min()),
        "largest_error": float((offsets["ours"] - wanted).abs().max() / wanted.abs().max()),
    }


def show(report: dict[str, float]) -> None:
    """The figures as a table; beside the ratios what is asked of them."""
    for name, value in report.items():
        asked = ASKED.get(name)
        bound = "" if asked is None else f"   asked: at {'least' if name == 'bf16_cosine' else 'most'} {asked:g}"
        print(f"{name:22}  {value:10.4g}{bound}")
