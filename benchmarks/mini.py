"""What the embedded model draws, measured on drawn people that no network was trained on.

Everything runs in a real ComfyUI in this process, through the pack's own nodes and ComfyUI's KSampler. Five kinds of
pictures are measured by the same measures:

renders          fresh renders of the people in the prompts' scenes: the best that can be
reconstruction   the same through the autoencoder
base             the base model alone, with the prompts
base, told       the base model alone, with every trait of the person in the prompt
identity         the prompts, with the identity from the codes of another picture of the person

fine              mean correlation of read and true eye size, brow thickness and tilt, nose width and length, mouth
                  width and lips; read, like the next, by a network trained on exact labels
hair ... eyes     share of right values of hair style, beard, glasses and eye colour
retrieval         share of pictures in which the judge picks the right one of the people
equal colours     the same among people with the same colours of skin, hair, eyes and glasses: shapes only
similarity        mean cosine to renders of the person; `ceiling`: of two fresh renders
gradient energy   mean squared difference of neighbouring pixels, over that of the renders
background        mean absolute difference to the base's picture of the same noise, outside the heads
IoU               head found in the picture against the attention map above 0.5 (renders: against the exact mask)
scene, clothes    share of pictures that show what the prompt asks for
diversity         mean absolute difference of pictures of one person from different noise
dlib              share of pictures in which dlib finds a face; AUC of telling the people apart, with renders of them

The codes, the generator and the autoencoder are measured apart. Readers are trained at the first run (optional extra
`train`; about nine minutes) and kept in training_runs/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment
from benchmarks.mini_measures import (
    gradient_energy,
    independent_judge,
    intersection_over_union,
    mean,
    measured_codes,
    pairwise_difference,
    psnr,
    share_right,
    trait_index,
    trait_measures,
)
from benchmarks.mini_studio import PROMPT_SCENES, PROMPTS, Studio, as_bchw, drawn, write_sheet

HELD_OUT_SEED = 2_000_000
SCENES = 8  # of each person: the first is the reference, then the gallery, then fresh renders for the judge's accuracy
GALLERY = slice(1, 5)
FRESH = slice(5, 8)
# What people of equal colours share; all else is their own.
COLOURS = ("skin_tone", "skin_undertone", "hair_colour", "hair_shade", "eye_colour", "glasses_colour")
DIVERSE_PEOPLE, DIVERSE_PICTURES = 3, 8
MAP_THRESHOLD = 0.5


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py mini", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, default=20, help="people to tell apart")
    parser.add_argument("--seed", type=int, default=0, help="of the generated pictures")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--cfg", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--strength", type=float, default=1.0, help="of the identity")
    parser.add_argument("--preset", default="portrait", help="of ApplyIdentityAdapter")
    parser.add_argument("--probed", type=int, default=1200, help="renders that the linear probes are fitted on")
    parser.add_argument("--sheet", type=Path, default=None, help="also write references and pictures as one PNG")
    parser.add_argument(
        "--readers", type=Path, default=environment.ROOT / "training_runs", help="where the trained readers are kept"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    print(table(report))
    print(json.dumps(report))
    return 0


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures of one kind: for each prompt, one picture (H, W, 3) in [0, 1] of each person."""

    pictures: Sequence[Any]
    equal_colours: Sequence[Any] | None = None  # the same for the people of equal colours
    maps: Sequence[Any] | None = None  # for each prompt (B, H, W) booleans: attention maps, or exact head masks
    diverse: Sequence[Any] = ()  # pictures (n, H, W, 3) of one person each


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import torch

    import comfy_host
    import in_process

    in_process.import_comfy(comfy_host.DEFAULT, folder)
    from drawn_world.readers import trained_readers

    readers = trained_readers(options.readers)
    with torch.no_grad():
        return Measure(Studio(in_process.load_pack(), options), readers, options).report()


class Measure:
    """People, pictures of every kind, and the measures on them."""

    def __init__(self, studio: Studio, readers: Any, options: argparse.Namespace) -> None:
        from drawn_world import bundle, data, likeness

        self.studio, self.readers, self.options, self.count = studio, readers, options, options.identities
        self.jury = likeness.Jury(bundle.load_judge(), studio.pidiff_model.detector)
        self.world = data.World(seed=HELD_OUT_SEED, people=self.count, scenes=SCENES)
        self.people = [self.world.person(index) for index in range(self.count)]
        shared = {name: self.people[0].vector[trait_index(name)] for name in COLOURS}
        self.equals = [person.replace(**{name: float(v) for name, v in shared.items()}) for person in self.people]
        self.judge = independent_judge()

    def report(self) -> dict[str, Any]:
        from drawn_world import likeness

        renders = {"people": self.rendered(self.people), "equals": self.rendered(self.equals)}
        galleries = {name: self.gallery(pictures) for name, pictures in renders.items()}
        kinds, autoencoder_db = self.drawn(renders)
        rows = {name: self.row(drawn, galleries, kinds, renders["people"]) for name, drawn in kinds.items()}
        fresh = [
            self.jury.recognised(as_bchw(self.studio.reconstructed(renders["people"][:, scene])), galleries["people"])
            for scene in range(FRESH.start, FRESH.stop)
        ]
        results = [self.jury.recognised(as_bchw(images), galleries["people"]) for images in kinds["identity"].pictures]
        base = kinds["base"].pictures
        if self.options.sheet is not None:
            write_sheet(
                [renders["people"][:, 0], *(p for kind in kinds.values() for p in kind.pictures)], self.options.sheet
            )
        identity = rows["identity"]
        return {
            "identities": self.count,
            "pictures": len(PROMPTS) * self.count,
            "retrieval": identity["retrieval"],
            "base_retrieval": rows["base"]["retrieval"],
            "retrieval_equal_colours": identity["retrieval_equal_colours"],
            "similarity": identity["similarity"],
            "base_similarity": rows["base"]["similarity"],
            "ceiling": likeness.ceiling(galleries["people"]),
            "judge_accuracy": mean([judged for judged, _ in fresh]),
            "colour_only_retrieval": mean([coloured for _, coloured in results]),
            "colour_only_accuracy": mean([coloured for _, coloured in fresh]),
            "fine_identity": identity["fine"],
            "beard_identity": identity["beard"],
            "glasses_identity": identity["glasses"],
            "hair_identity": identity["hair"],
            "gradient_energy": identity["gradient_energy"],
            "background_change": identity["background_change"],
            "background_other_seed": mean(
                [self.jury.background_change(as_bchw(one), as_bchw(one.roll(1, 0))) for one in base]
            ),
            "localisation_iou": identity["localisation_iou"],
            "text_over_base": (identity["scene"] + identity["clothes"])
            / max(rows["base"]["scene"] + rows["base"]["clothes"], 1e-6),
            "independent_found": identity["independent_found"],
            "independent_auc": identity["independent_auc"],
            "autoencoder_db": autoencoder_db,
            "rows": rows,
            "codes": measured_codes(
                self.studio.pidiff_model.require("generator", purpose="to be measured"),
                lambda crops: self.studio.encode_crops(self.studio.pidiff_model, crops).codes,
                self.readers,
                seed=HELD_OUT_SEED + 1,
                fitted=self.options.probed,
            ),
            "preset": self.options.preset,
            "seed": self.options.seed,
        }

    def rendered(self, people: Sequence[Any]) -> Any:
        """(n, SCENES, H, W, 3): every person in photos of the held-out world's scenes."""
        import torch

        return torch.stack(
            [
                torch.stack([drawn(person, self.world.scene(i * SCENES + k, medium="photo"))[0] for k in range(SCENES)])
                for i, person in enumerate(people)
            ]
        )

    def gallery(self, pictures: Any) -> Any:
        """The judge compares what the autoencoder can show, not what it cannot."""
        shown = self.studio.reconstructed(pictures[:, GALLERY].flatten(0, 1))
        return self.jury.gallery(as_bchw(shown).unflatten(0, (len(pictures), -1)))

    def drawn(self, renders: dict[str, Any]) -> tuple[dict[str, Drawn], float]:
        """Pictures of every kind, and the autoencoder's mean PSNR in dB on the renders."""
        import torch

        from drawn_world.captions import trait_phrases

        studio, count = self.studio, self.count
        targets, masks = zip(*[self.target_renders(self.people, k) for k in range(len(PROMPTS))])
        equal_targets = [self.target_renders(self.equals, k)[0] for k in range(len(PROMPTS))]
        diverse = [self.diverse_renders(person) for person in self.people[:DIVERSE_PEOPLE]]
        through = [studio.reconstructed(images) for images in targets]
        told = [[f"{prompt}, with {', '.join(trait_phrases(person))}" for person in self.people] for prompt in PROMPTS]
        base = [studio.sample(studio.model, prompt, count=count)[0] for prompt in PROMPTS]
        applied, applied_equals = (studio.applied(studio.encoded(pictures[:, 0])) for pictures in renders.values())
        with_identity = [studio.sample(applied, prompt, count=count) for prompt in PROMPTS]
        return {
            "renders": Drawn(targets, equal_targets, masks, diverse),
            "reconstruction": Drawn(
                through,
                [studio.reconstructed(images) for images in equal_targets],
                masks,
                [studio.reconstructed(images) for images in diverse],
            ),
            "base": Drawn(base, base, None, [studio.sample(studio.model, PROMPTS[0], count=DIVERSE_PICTURES)[0]]),
            "base, told": Drawn([studio.sample(studio.model, texts, count=count)[0] for texts in told]),
            "identity": Drawn(
                [images for images, _ in with_identity],
                [studio.sample(applied_equals, prompt, count=count)[0] for prompt in PROMPTS],
                [
                    studio.attention_map(applied, prompt, latents, images) > MAP_THRESHOLD
                    for prompt, (images, latents) in zip(PROMPTS, with_identity)
                ],
                [
                    studio.sample(studio.applied(codes), PROMPTS[0], count=DIVERSE_PICTURES)[0]
                    for codes in (studio.encoded(renders["people"][i, :1]) for i in range(min(DIVERSE_PEOPLE, count)))
                ],
            ),
        }, psnr(torch.cat(through), torch.cat(targets), span=1)

    def target_renders(self, people: Sequence[Any], prompt: int) -> tuple[Any, Any]:
        """Every person in the scene that a prompt asks for: pictures (n, H, W, 3), exact head masks (n, H, W)."""
        import torch

        scenes = [self.world.scene(10_000 * (prompt + 1) + i, **PROMPT_SCENES[prompt]) for i in range(len(people))]
        images, masks = zip(*[drawn(person, scene) for person, scene in zip(people, scenes)])
        return torch.stack(images), torch.stack(masks)

    def diverse_renders(self, person: Any) -> Any:
        import torch

        scenes = [self.world.scene(50_000 + k, **PROMPT_SCENES[0]) for k in range(DIVERSE_PICTURES)]
        return torch.stack([drawn(person, scene)[0] for scene in scenes])

    def row(self, kind: Drawn, galleries: dict[str, Any], kinds: dict[str, Drawn], renders: Any) -> dict[str, Any]:
        """Every measure of one kind of pictures; None if it does not apply."""
        import torch

        pictures = [as_bchw(images) for images in kind.pictures]
        labels, heads = zip(*[self.readers.read_scenes(images) for images in pictures])
        base = [as_bchw(images) for images in kinds["base"].pictures]
        wanted = [as_bchw(images) for images in kinds["renders"].pictures]
        found, auc = self.independent(kind, renders)
        return {
            **self.traits(pictures),
            "retrieval": mean([self.jury.recognised(images, galleries["people"])[0] for images in pictures]),
            "retrieval_equal_colours": None
            if kind.equal_colours is None
            else mean([self.jury.recognised(as_bchw(one), galleries["equals"])[0] for one in kind.equal_colours]),
            "similarity": mean([self.jury.likeness(images, galleries["people"]) for images in pictures]),
            "gradient_energy": gradient_energy(torch.cat(pictures)) / gradient_energy(torch.cat(wanted)),
            "background_change": mean([self.jury.background_change(a, b) for a, b in zip(pictures, base)])
            if kind is kinds["identity"]
            else None,
            "localisation_iou": None
            if kind.maps is None
            else mean([intersection_over_union(a, b) for a, b in zip(kind.maps, heads)]),
            "scene": share_right(labels, PROMPT_SCENES, "place"),
            "clothes": share_right(labels, PROMPT_SCENES, "clothes"),
            "diversity": mean([pairwise_difference(images)[None] for images in kind.diverse]) if kind.diverse else None,
            "independent_found": found,
            "independent_auc": auc,
        }

    def traits(self, pictures: Sequence[Any]) -> dict[str, float]:
        """What the trait reader reads in pictures (n, 3, H, W) of the people, against the truth."""
        import torch

        from drawn_world.crops import cut
        from drawn_world.readers import read_crops

        read = torch.cat([self.readers.read_traits(read_crops(cut(one, self.jury.find(one)))) for one in pictures])
        return trait_measures(read, [*self.people] * len(pictures))

    def independent(self, kind: Drawn, renders: Any) -> tuple[float | None, float | None]:
        """Share of faces that the independent judge finds, and its AUC on them and the people's renders together."""
        if self.judge is None:
            return None, None
        from pidiff_core.errors import PIDiffError
        from pidiff_core.face.recognisers import vectors
        from pidiff_core.training.evaluate.likeness import faces_found, tell_apart

        own = [vector for images in kind.pictures for vector in vectors(self.judge, images)]
        fresh = vectors(self.judge, renders[:, FRESH.start])
        people = [*range(self.count)] * (len(kind.pictures) + 1)
        try:
            return faces_found(own), tell_apart([*own, *fresh], people).auc
        except PIDiffError:  # too few faces for a pair of each kind
            return faces_found(own), None


def table(report: dict[str, Any]) -> str:
    """The report for people: single figures, then one line a kind of pictures, then the codes."""
    single = {name: value for name, value in report.items() if not isinstance(value, dict)}
    width = max(map(len, single))
    lines = [f"{name:{width}}  {_shown(value)}" for name, value in single.items()]
    for part in ("rows", "codes"):
        columns = list(dict.fromkeys(column for row in report[part].values() for column in row))
        names = [part, *report[part]]
        cells = [columns] + [[_shown(row.get(column)) for column in columns] for row in report[part].values()]
        widths = [max(map(len, column)) for column in zip(*cells)]
        first = max(map(len, names))
        lines.append("")
        lines += [
            f"{name:{first}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths))
            for name, row in zip(names, cells)
        ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit("run `python scripts/bench.py mini`")
