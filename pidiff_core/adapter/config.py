"""The configuration of an identity adapter; it travels in the checkpoint's metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import PIDiffError
from ..wplus.codes import levels
from .sites import Site, SiteSpec

FAMILIES = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "mini": "the embedded mini model",
}
FORMATS = ("pidiff", "wplus-adapter")
QUERIES = ("host", "text")
SHARINGS = ("style", "level")
_LARGEST = 256  # a file that asks for more layers than this would keep the process busy for ever


@dataclass(frozen=True)
class AdapterConfig:
    """Everything that decides the adapter's shapes and arithmetic.

    Raises:
        PIDiffError: a value outside the ranges given here.
    """

    sites: tuple[SiteSpec, ...]
    """Every cross-attention that carries an identity branch: name, width, heads."""
    format: str = "pidiff"
    """"pidiff": one token a style and a null key; "wplus-adapter": the published four-token arithmetic."""
    num_styles: int = 18
    """S, the number of styles of the W+ space."""
    code_width: int = 512
    """D, the width of one style."""
    token_width: int = 768
    """W, the width of a token: the UNet's context width."""
    query: str = "host"
    """Q_id: "host" = the site's own query; "text" = a projection of the text output, as in W+ Adapter."""
    sharing: str = "style"
    """Sharing of the projection's weights: "style" = one set per style; "level" = one set per level."""
    hidden: int = 0
    """Width of a hidden layer in the per-style projection; 0 = one linear layer."""
    mixer_layers: int = 0
    """Layers that mix the tokens of all styles (MLP-mixer) before they leave the projection; 0 = none."""
    family: str = ""
    """The base models it was trained for, a key of `FAMILIES`; "" = not recorded."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "sites", tuple(SiteSpec(str(name), int(width), int(heads)) for name, width, heads in self.sites)
        )
        for field, known in (("format", FORMATS), ("query", QUERIES), ("sharing", SHARINGS)):
            if getattr(self, field) not in known:
                raise PIDiffError(
                    f"The adapter's {field} is '{getattr(self, field)}': expected one of {', '.join(known)}."
                )
        if not self.sites:
            raise PIDiffError("The adapter has no sites: expected at least one cross-attention (name, width, heads).")
        for spec in self.sites:
            Site.from_name(spec.name)
            if spec.width <= 0 or spec.heads <= 0 or spec.width % spec.heads:
                raise PIDiffError(
                    f"Site {spec.name} has {spec.width} channels in {spec.heads} heads: the heads must divide them."
                )
        if len({spec.name for spec in self.sites}) != len(self.sites):
            raise PIDiffError("The adapter lists a site twice: expected each site once.")
        if min(self.num_styles, self.code_width, self.token_width) <= 0 or min(self.hidden, self.mixer_layers) < 0:
            raise PIDiffError(
                "The adapter's num_styles, code_width and token_width must be positive, "
                "hidden and mixer_layers at least 0."
            )
        if max(self.num_styles, self.mixer_layers) > _LARGEST:
            raise PIDiffError(
                f"The adapter has {self.num_styles} styles and {self.mixer_layers} mixer layers, expected at most "
                f"{_LARGEST} of each. The file is not a PIDiff adapter."
            )

    @property
    def num_tokens(self) -> int:
        """Tokens that an identity becomes: one a style, or W+ Adapter's four."""
        return self.num_styles if self.format == "pidiff" else 4

    @property
    def token_levels(self) -> dict[str, slice]:
        """Which tokens carry the coarse, medium and fine styles."""
        if self.format == "pidiff":
            return levels(self.num_styles)
        return {"coarse": slice(0, 1), "medium": slice(1, 2), "fine": slice(2, 4)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the checkpoint's metadata."""
        return asdict(self) | {"sites": [list(spec) for spec in self.sites]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdapterConfig:
        """Read what `to_dict` gave.

        Raises:
            PIDiffError: a field is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown or "sites" not in values:
            raise PIDiffError(
                f"The adapter's configuration has unknown fields {unknown} or lacks 'sites': "
                "it was written by another version of PIDiff."
            )
        return cls(**values)
