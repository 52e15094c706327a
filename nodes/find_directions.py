"""PIDiffFindDirections: directions of one's own, saved as one file for Style Edit."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from comfy_api.latest import io
from einops import rearrange

from ..pidiff_core.errors import PIDiffError
from ..pidiff_core.face.measure import measure_portraits
from ..pidiff_core.files.cache import FileIdentity
from ..pidiff_core.model import PIDiffModel
from ..pidiff_core.pipeline import decode
from ..pidiff_core.wplus.codes import WPlus
from ..pidiff_core.wplus.direction_files import save_directions
from ..pidiff_core.wplus.directions import apply_direction
from ..pidiff_core.wplus.find_directions import (
    FoundDirection,
    direction_of_groups,
    measured_directions,
    principal_directions,
)
from .host.face_files import face_file_identities, face_parser, portrait_detector
from .host.folders import directions_place
from .host.inputs import checked_inputs
from .host.node_report import report
from .host.progress import progress_bar
from .host.wire_types import PidiffModel, PidiffWPlus, schema

METHODS = ("two groups", "components", "measured")
_SHOWN = (-2.0, -1.0, 0.0, 1.0, 2.0)  # amounts of a strip


class FindDirections(io.ComfyNode):
    """Finds directions from groups of codes, components of W, or measured portraits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's permanent contract."""
        return schema(
            node_id="PIDiffFindDirections",
            display_name="PIDiff Find Directions (Train Edits)",
            category="PIDiff",
            description="Finds new directions for Style Edit: from photos with and without a property, from the main "
            "components of the generator, or by measuring portraits. Saves them as one file in models/pidiff.",
            search_aliases=["InterFaceGAN", "GANSpace", "edit direction", "latent direction", "PCA", "train edit"],
            is_output_node=True,
            advanced=["samples", "count", "seed"],
            inputs=[
                PidiffModel.Input("pidiff_model", tooltip="PIDiff model with a generator."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="How directions are found. Start with two groups: codes of photos with the property and "
                    "without it. components: the largest differences between the generator's people. measured: pose, "
                    "smile, face length, lightness of skin and hair, and with a face parser eyes open and face width, "
                    "measured on the generator's portraits.",
                ),
                io.String.Input(
                    "name",
                    default="my edit",
                    tooltip="Name of the file, and of the direction for two groups. A number is added if the file "
                    "exists.",
                ),
                PidiffWPlus.Input(
                    "having",
                    optional=True,
                    tooltip="Codes of photos with the property, of different people. For two groups only.",
                ),
                PidiffWPlus.Input(
                    "lacking",
                    optional=True,
                    tooltip="Codes of photos without the property. For two groups only.",
                ),
                io.Int.Input(
                    "samples",
                    default=512,
                    min=32,
                    max=20000,
                    optional=True,
                    tooltip="Number of the generator's people for components and measured. Start with 512; components "
                    "take any number in no time.",
                ),
                io.Int.Input(
                    "count",
                    default=8,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="Number of components to save. Start with 8.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, tooltip="Seed. Start with 0."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "strips",
                    display_name="strips",
                    tooltip="A strip of portraits for each direction: amounts -2, -1, 0, 1 and 2.",
                ),
                io.String.Output("report", display_name="report", tooltip="Quality of each direction, as text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> list[tuple[str, FileIdentity]]:
        """Run again when a face parser's file has changed."""
        return face_file_identities()

    @classmethod
    @checked_inputs
    def execute(
        cls,
        pidiff_model: Any,
        method: str,
        name: str,
        having: Any = None,
        lacking: Any = None,
        samples: int = 512,
        count: int = 8,
        seed: int = 0,
    ) -> io.NodeOutput:
        """See `pidiff_core.wplus.find_directions`."""
        progress = progress_bar()
        folder, file = directions_place(name)
        if method == "two groups":
            if having is None or lacking is None:
                raise PIDiffError(
                    "The method 'two groups' needs codes of photos with the property and without it: connect having "
                    "and lacking, or choose another method."
                )
            pidiff_model.require_space_of(having)
            found = [direction_of_groups(having, lacking, name=name.strip().replace("\\", "/").rpartition("/")[2])]
            shown = lacking.select(lacking.present.index(True))
        else:
            w = _sampled(pidiff_model, samples, seed)
            people = WPlus(
                w[:, None].expand(-1, pidiff_model.space.num_styles, -1),
                pidiff_model.require_average(),
                pidiff_model.space,
                source="the generator",
            )
            found = (
                principal_directions(w, count=min(count, w.shape[1], samples - 1))
                if method == "components"
                else measured_directions(w, _measured(pidiff_model, people, progress))
            )
            shown = people.select(0).with_codes(people.codes.mean(dim=0, keepdim=True))
        space = pidiff_model.space
        own = [dataclasses.replace(one.direction, space=space) for one in found]
        path = save_directions(folder, file, own, space=space)
        text = "\n".join([f"saved as {path.name}", *(one.report() for one in found)])
        strips = _strips(pidiff_model, found, shown, progress)
        return io.NodeOutput(strips, text, ui=report(images_bhwc=strips, text=text))


def _sampled(model: PIDiffModel, samples: int, seed: int) -> torch.Tensor:
    """(N, D): w of the generator's people."""
    generator = model.require("generator", purpose="to find directions among its people")
    weight = next(generator.parameters())
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator.mapping(z.to(weight)).float().cpu()


def _measured(model: PIDiffModel, people: WPlus, progress: Any) -> dict[str, torch.Tensor]:
    """The generator's portraits of these people, measured one after another, so that only one is in memory."""
    detector = portrait_detector(model)
    # A model with a detector of its own draws faces of another kind, which the parsers do not know.
    parser = None if model.detector is not None else face_parser("auto", model=model)
    rows = []
    for number in range(len(people)):
        portrait = rearrange(decode(model, people.select(number)), "b h w c -> b c h w") * 2.0 - 1.0
        rows.append(measure_portraits(portrait, detector, parser=parser))
        progress(0.9 * (number + 1) / len(people))
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _strips(model: PIDiffModel, found: list[FoundDirection], person: WPlus, progress: Any) -> torch.Tensor:
    """(K, H, 5 W, 3)."""
    strips = []
    for number, one in enumerate(found):
        codes = torch.cat([apply_direction(person, one.direction, amount=amount).codes for amount in _SHOWN])
        portraits = decode(model, person.with_codes(codes))
        strips.append(rearrange(portraits, "b h w c -> 1 h (b w) c"))
        progress(0.9 + 0.1 * (number + 1) / len(found))
    return torch.cat(strips)
