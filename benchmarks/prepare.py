"""`pidiff prepare` against the sum of its parts run bare: detector, W+ encoder, VAE and text encoder, in batches.

Measured in processor time on one thread, interleaved, so that other work on the machine does not count. The embedded
networks are the hardest case: they are so small that reading, aligning and masking photos weigh most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.files import write_photos


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=72, help="drawn photos, three of each person")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are reported")
    parser.add_argument("--batch", type=int, default=8, help="batch size of the networks")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    for name, value in report.items():
        print(f"{name:16}  {value}")
    print(json.dumps(report))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float | int]:
    """Seconds of processor time for all photos, and the ratio."""
    import torch

    from pidiff_core.images import bhwc_to_bchw, load_image, resize_bchw
    from pidiff_core.mini.bundle import load_identity
    from pidiff_core.training.bases import load_base
    from pidiff_core.training.data.listing import list_photos
    from pidiff_core.training.data.options import PrepareOptions
    from pidiff_core.training.data.prepare import prepare

    torch.set_num_threads(1)
    write_photos(folder / "photos", people=options.photos // 3, each=3)
    base, model = load_base("mini"), load_identity()
    assert model.detector is not None
    detector, encoder = model.detector, model.require("encoder", purpose="to be measured")
    files = list_photos(PrepareOptions(photos=str(folder / "photos"))).photos
    photos = [bhwc_to_bchw(load_image(file.path)) for file in files]
    images, captions = torch.cat(photos), list(dict.fromkeys(file.caption for file in files))
    faces = resize_bchw(images, model.crop_size)
    batches = [captions[start : start + options.batch] for start in range(0, len(captions), options.batch)]

    def encode_twice() -> None:  # the photo, and its aligned face
        for part in (*images.split(options.batch), *images.split(options.batch)):
            base.encode_images(part)

    def whole() -> None:
        out = tempfile.mkdtemp(dir=folder)
        settings = PrepareOptions(
            photos=str(folder / "photos"), out=out, detector="model", sheet_photos=0, batch_size=options.batch
        )
        prepare(settings, base=base, model=model)

    work: dict[str, Callable[[], object]] = {
        "detector": lambda: [detector.detect(photo) for photo in photos],
        "encoder": lambda: [encoder(part) for part in faces.split(options.batch)],
        "vae": encode_twice,
        "text": lambda: [base.encode_text(part) for part in batches],
        "prepare": whole,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for run in work.values():  # the first time loads and allocates
            run()
        for _ in range(options.rounds):
            for name, run in work.items():
                began = time.process_time()
                run()
                seconds[name].append(time.process_time() - began)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    parts = sum(value for name, value in medians.items() if name != "prepare")
    return {
        "photos": len(files),
        **medians,
        "sum_of_parts": round(parts, 3),
        "ratio": round(medians["prepare"] / parts, 3),
    }
