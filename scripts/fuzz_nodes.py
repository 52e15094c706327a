"""Calls of nodes for the fuzzer and the tests: every node of the pack, in ComfyUI's own validation and executor.

A call begins as a valid one; then up to three of its inputs are exchanged for values that another node or a program
may give: numbers that are not finite or out of range, texts with lone surrogates or NUL, images, masks and latents of
odd shapes and types, and wires of another kind. A call may succeed, be refused by ComfyUI's validation, or raise a
PIDiffError. Everything else is a failure.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from in_process import Pack

ANY_TYPE = type("AnyType", (str,), {"__ne__": lambda self, other: False, "__hash__": str.__hash__})("*")
# Inputs whose largest value is work for minutes: a valid call takes one of these.
SMALL_WORK = {
    "steps": (1, 2),
    "samples": (32, 40),
    "count": (1, 3),
    "size_px": (64, 128),
    "preview_every": (0, 1),
    "rank": (0, 2),
    "cfg": (1.0, 3.0),
}
SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "pidiff_sample_1.png"
SAVED = "person.safetensors"  # in the input folder
VALID = {  # what most of a node's work needs, where the default or most choices end it early
    "recogniser": "dlib",
    "file": SAVED,
    "text": base64.b64encode(SAMPLE.read_bytes()).decode(),
    "detector": "whole image",
    "column_values": "0, 1",
    "columns": "strength",
    "rows": "none",
    "sampler_name": "euler",
    "scheduler": "normal",
}
NUMBERS = (math.nan, math.inf, -math.inf, -1, 0.5, -0.0, 1e300, -1e300, 2**31, 2**64, 10**400, -(2**63), True)
TEXTS = (
    "",
    " ",
    "\x00",
    "\ud83d",
    "a\ud800b",
    "e\u0301",
    "x" * 5000,
    "../../escape",
    "/etc/passwd",
    "C:\\x",
    "..",
    "~",
    "a/b/../../../c",
    "nan",
    "1 2 x",
    "1" * 400,
    "{",
    "[]",
    "[[1, 2]]",
    "{}",
    "null",
    '{"directions": {"smile": NaN}}',
    '{"directions": {"smile": 1e999}}',
    '{"mix": {"fine": "x"}}',
    '{"directions": []}',
    "middle=0",
    "middle=nan",
    "input.4.1=0.5 middle",
    "1,2 3,4 5,6 7,8 9,10",
    "1e308,1 2,2 3,3 4,4 5,5",
    "0,0 1e9,1e9",
    "\u202e\u2028",
    "%date%",
    "CON",
    "a" * 300,
    "*",
    "[!",
    "data:image/png;base64,AAAA",
    "iVBORw0KGgo=",
    "none",
    "smile",
    "people/anna",
    "[" * 5000,
    "1 2 3 4",
    "0.5",
    "error",
    "x [output]",
    " [input]",
)


@dataclass
class Call:
    """A node and its inputs.

    Attributes:
        node: the node's id.
        inputs: values by the inputs' names.
        wired: names of the inputs that come from another node; the rest are constants of the prompt.
        changed: names of the inputs that were exchanged.
    """

    node: str
    inputs: dict[str, Any]
    wired: set[str]
    changed: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        shown = {name: _short(self.inputs.get(name)) for name in self.changed}
        return f"{self.node}({', '.join(f'{name}={value}' for name, value in shown.items())})"


@dataclass(frozen=True)
class Outcome:
    """What came of a call: "success", "validation" or "PIDiffError", or else the failure in one line."""

    kind: str
    failure: str = ""


class NodeCaller:
    """ComfyUI's executor in this process with the pack's nodes. Call `in_process.import_comfy` first.

    Args:
        pack: the pack as ComfyUI loads it.
        base: ComfyUI's base folder; what calls write there is removed. Nothing may be written beside it.
    """

    def __init__(self, pack: Pack, base: Path) -> None:
        import execution
        import folder_paths

        import nodes as host_nodes

        self._base = base
        self._error = pack.load("pidiff_core.errors").PIDiffError
        extension = asyncio.run(_as_coroutine(pack.module.comfy_entrypoint()))
        self.nodes = {}
        for node in asyncio.run(extension.get_node_list()):
            self.nodes[node.GET_SCHEMA().node_id] = node
        for folder in ("input", "output", "temp", "models/pidiff"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        folder_paths.set_temp_directory(str(base / "temp"))
        host_nodes.NODE_CLASS_MAPPINGS.update(self.nodes)
        host_nodes.NODE_CLASS_MAPPINGS.update(FuzzValue=_Value, FuzzSink=_Sink)
        self._validate = execution.validate_prompt
        self._executor = execution.PromptExecutor(
            _Listener(), cache_type=execution.CacheType.CLASSIC, cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        )
        self._numbers = itertools.count()  # of values: none twice, because ComfyUI keeps the outputs of equal nodes
        self._beside = set(base.parent.iterdir())
        self.good = _good_values(pack)
        saved = base / "input" / SAVED
        if not saved.exists():
            pack.load("pidiff_core.wplus.code_files").save_codes(saved, self.good["PIDIFF_WPLUS"][0])

    def run(self, call: Call) -> Outcome:
        """Validate and execute one call as a prompt."""
        _Value.store = {}
        prompt: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for name, value in call.inputs.items():
            if name in call.wired:
                number = next(self._numbers)
                _Value.store[number] = value
                prompt[f"value {number}"] = {"class_type": "FuzzValue", "inputs": {"number": number}}
                inputs[name] = [f"value {number}", 0]
            else:
                inputs[name] = value
        prompt["node"] = {"class_type": call.node, "inputs": inputs}
        schema = self.nodes[call.node].GET_SCHEMA()
        if not schema.is_output_node:
            prompt["sink"] = {"class_type": "FuzzSink", "inputs": {"value": ["node", 0]}}
        try:
            return self._run(prompt)
        finally:
            _Value.store = {}
            self._clean()

    def _run(self, prompt: dict[str, Any]) -> Outcome:
        is_valid, _, outputs, node_errors = asyncio.run(self._validate("fuzz", prompt, None))
        if not is_valid:
            for problem in node_errors.values():
                for error in problem["errors"]:
                    ours = "".join(error.get("extra_info", {}).get("traceback", ()))
                    if "/nodes/" in ours.replace("\\", "/").replace("comfy_extras/nodes", ""):
                        return Outcome("failure", f"in validation: {_one_line(error['details'])}")
            return Outcome("validation")
        self._executor.execute(prompt, "fuzz", {}, outputs)
        for event, data in self._executor.status_messages:
            if event != "execution_error":
                continue
            if not data["exception_type"].endswith(".PIDiffError"):
                place = (data["traceback"] or ["?"])[-1].strip().splitlines()[0]
                return Outcome(
                    "failure", f"{data['exception_type']}: {_one_line(data['exception_message'])} at {place}"
                )
            try:
                data["exception_message"].encode()
            except UnicodeEncodeError:
                return Outcome("failure", f"a sentence that cannot be encoded: {data['exception_message']!a}")
            return Outcome("PIDiffError")
        if set(self._base.parent.iterdir()) != self._beside:
            return Outcome("failure", "something was written outside of ComfyUI's folders")
        return Outcome("success")

    def _clean(self) -> None:
        for folder in ("output", "temp", "models/pidiff"):
            for path in (self._base / folder).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Listener:
    """In place of ComfyUI's web server: no client is connected."""

    client_id = None
    last_node_id = None

    def send_sync(self, *_message: Any) -> None:
        """No client."""


class _Value:
    """Gives any value to a wire, as nodes of other packs may."""

    store: dict[int, Any] = {}
    RETURN_TYPES = (ANY_TYPE,)
    FUNCTION = "value"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"number": ("INT", {"min": 0, "max": 2**53})}}

    def value(self, number: int) -> tuple[Any]:
        return (self.store[number],)


class _Sink:
    """Makes ComfyUI run a node that is no output node."""

    RETURN_TYPES = ()
    FUNCTION = "take"
    OUTPUT_NODE = True
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (ANY_TYPE, {})}}

    def take(self, value: Any) -> dict[str, Any]:
        return {}


# ---------------------------------------------------------------------------------------------------------------- calls


def random_call(rng: random.Random, caller: NodeCaller) -> Call:
    """A valid call with zero to three changes."""
    name = rng.choice(sorted(caller.nodes))
    call = valid_call(name, rng, caller)
    declared = {one.id: one for one in caller.nodes[name].GET_SCHEMA().inputs}
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3)) if declared else 0):
        wanted = rng.choice(sorted(declared))
        kind = _kind(declared[wanted])
        call.inputs[wanted] = odd_value(kind, declared[wanted], rng, caller)
        call.changed.append(wanted)
        is_constant = (
            kind in _WIDGETS and not isinstance(call.inputs[wanted], (torch.Tensor, list)) and rng.random() < 0.5
        )
        (call.wired.discard if is_constant else call.wired.add)(wanted)
    return call


def valid_call(name: str, rng: random.Random, caller: NodeCaller) -> Call:
    """A call in which every value is of the right kind."""
    inputs: dict[str, Any] = {}
    wired: set[str] = set()
    for declared in caller.nodes[name].GET_SCHEMA().inputs:
        if getattr(declared, "optional", False) and declared.id not in SMALL_WORK and rng.random() < 0.5:
            continue
        kind = _kind(declared)
        if kind in _WIDGETS:
            inputs[declared.id] = _widget_value(kind, declared, rng)
        else:
            inputs[declared.id] = rng.choice(caller.good.get(kind, [None]))
            wired.add(declared.id)
    return Call(name, inputs, wired)


_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def _kind(declared: Any) -> str:
    return declared.get_io_type() if hasattr(declared, "get_io_type") else declared.io_type


def _widget_value(kind: str, declared: Any, rng: random.Random) -> Any:
    if declared.id in VALID:
        return VALID[declared.id]
    if kind == "COMBO":
        return rng.choice(list(declared.options) or [""])
    if kind == "BOOLEAN":
        return rng.random() < 0.5
    if kind == "STRING":
        return declared.default or ""
    if declared.id in SMALL_WORK:
        return max(rng.choice(SMALL_WORK[declared.id]), declared.min)
    return rng.choice((declared.default, declared.default, declared.min, declared.max))


def odd_value(kind: str, declared: Any, rng: random.Random, caller: NodeCaller) -> Any:
    """A value for this kind of input that is unusual, or of another kind."""
    if rng.random() < 0.2:  # a wrong wire
        other = rng.choice([*caller.good, "odd"])
        return rng.choice(caller.good.get(other) or _ODD_OBJECTS)
    if kind in ("INT", "FLOAT"):
        return rng.choice((*NUMBERS, "1", "x", None, declared.min - 1 if declared.min is not None else -1, [], {}))
    if kind in ("STRING", "COMBO", "BOOLEAN"):
        return rng.choice((*TEXTS, None, 0, 1.5, math.nan, True, b"x", {}))
    make = _ODD_WIRES.get(kind)
    return make(rng) if make else rng.choice(_ODD_OBJECTS)


def odd_tensor(rng: random.Random, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """A tensor of one of these shapes, of any type, with values that may not be finite."""
    shape = rng.choice(shapes)
    kind = rng.choice(_DTYPES)
    value: Any = torch.full(shape, 0.5).to(kind)
    if kind.is_floating_point:
        value = rng.choice(_FLOAT_CHANGES)(value)
    return rng.choice((lambda t: t, lambda t: t, lambda t: t, lambda t: t, *_LAYOUTS))(value)


_DTYPES = (
    torch.float32,
    torch.float32,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.uint8,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)
_FLOAT_CHANGES: tuple[Callable[[Any], Any], ...] = (
    lambda t: t,
    lambda t: t,
    lambda t: t * math.nan if t.dtype.itemsize > 1 else t,
    lambda t: t * math.inf if t.dtype.itemsize > 1 else t,
    lambda t: t * -3 if t.dtype.itemsize > 1 else t,
)
_LAYOUTS: tuple[Callable[[Any], Any], ...] = (
    lambda t: t.to("meta"),
    lambda t: t.float().to_sparse() if not t.is_complex() else t,
    lambda t: t.numpy() if t.dtype == torch.float32 else t,
    lambda t: t.transpose(0, -1) if t.ndim > 1 else t,
    lambda t: t.float().requires_grad_() if not t.is_complex() else t,
)
_IMAGE_SHAPES = (
    (1, 128, 128, 3),
    (1, 64, 64, 3),
    (2, 32, 48, 3),
    (1, 1, 1, 3),
    (0, 8, 8, 3),
    (1, 0, 8, 3),
    (1, 8, 0, 3),
    (1, 8, 8, 2),
    (1, 8, 8, 4),
    (1, 8, 8, 1),
    (1, 8, 8, 0),
    (8, 8, 3),
    (1, 3, 8, 8),
    (1, 2, 3000, 3),
    (1, 3000, 1, 3),
    (),
    (3,),
    (1, 1, 8, 8, 3),
)
_MASK_SHAPES = (
    (1, 128, 128),
    (128, 128),
    (2, 64, 64),
    (1, 1, 1),
    (0, 8, 8),
    (1, 0, 8),
    (1, 8, 0),
    (1, 1, 8, 8),
    (),
    (8,),
    (3, 8, 8),
    (1, 1, 1, 8, 8),
    (1, 1, 4000),
)
_LATENT_SHAPES = (
    (1, 4, 16, 16),
    (1, 4, 8, 8),
    (2, 4, 16, 16),
    (1, 4, 1, 1),
    (1, 4, 3, 5),
    (0, 4, 16, 16),
    (1, 0, 16, 16),
    (1, 4, 0, 16),
    (1, 3, 16, 16),
    (1, 16, 16, 16),
    (4, 16, 16),
    (1, 4, 1, 16, 16),
    (),
    (16,),
)
_CONTEXT_SHAPES = ((1, 16, 64), (1, 77, 768), (1, 0, 64), (0, 16, 64), (16, 64), (1, 1, 1), ())
_ODD_OBJECTS: list[Any] = [
    None,
    0,
    -1,
    1.5,
    math.nan,
    "text",
    "\ud800",
    b"x",
    [],
    {},
    (),
    set(),
    object(),
    [[]],
    [None],
]


def _odd_latent(rng: random.Random) -> Any:
    latent: Any = {"samples": odd_tensor(rng, _LATENT_SHAPES)}
    change = rng.randrange(8)
    if change == 0:
        return rng.choice(({}, {"samples": None}, {"samples": []}, latent["samples"], [latent], {"latent": 1}))
    if change == 1:
        latent["batch_index"] = rng.choice(([], [0, 1, 2], [-1], [None], None, 3, [math.nan], ["x"]))
    if change == 2:
        latent["noise_mask"] = odd_tensor(rng, _MASK_SHAPES)
    return latent


def _odd_conditioning(rng: random.Random) -> Any:
    context = odd_tensor(rng, _CONTEXT_SHAPES)
    return rng.choice(
        (
            [],
            [[]],
            [[context]],
            [[context, {}]],
            [[context, None]],
            [[None, {}]],
            [context],
            context,
            [[context, {}, 1]],
            ((context, {}),),
            [{}],
            [[context, {"pooled_output": None}]],
            [[context, {"pooled_output": context}]],
        )
    )


_ODD_WIRES: dict[str, Callable[[random.Random], Any]] = {
    "IMAGE": lambda rng: odd_tensor(rng, _IMAGE_SHAPES),
    "MASK": lambda rng: odd_tensor(rng, _MASK_SHAPES),
    "LATENT": _odd_latent,
    "CONDITIONING": _odd_conditioning,
}


def _good_values(pack: Pack) -> dict[str, list[Any]]:
    """By the kind of a wire: values of the embedded model that fit together, most of them."""
    import nodes as host_nodes

    node = pack.load("nodes")
    codes = pack.load("pidiff_core.wplus.codes")
    model_class = pack.load("pidiff_core.model").PIDiffModel
    with torch.inference_mode():
        model, clip, vae, pidiff_model = node.LoadMini.execute().result
        text = host_nodes.CLIPTextEncode().encode(clip, "a photo of a person")[0]
        photo = pack.load("pidiff_core.images").load_image(
            sorted((Path(__file__).parent.parent / "samples").glob("*.png"))[0]
        )
        encoded = node.EncodeIdentity.execute(pidiff_model, photo, "whole image", 0, "error").result
        person = encoded[0]
        two = codes.WPlus.from_offsets(
            torch.cat((person.offsets, -person.offsets)), pidiff_model.latent_avg, space=pidiff_model.space
        )
        patched = node.ApplyIdentityAdapter.execute(model, pidiff_model, person).result[0]
        space = codes.WPlusSpace("test", 8, 6)
        other = codes.WPlus(torch.ones(1, 8, 6), torch.zeros(8, 6), space, "someone")
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        return {
            "MODEL": [patched, patched, model],
            "VAE": [vae],
            "CLIP": [clip],
            "CONDITIONING": [text],
            "LATENT": [latent, {**latent, "batch_index": [0]}],
            "IMAGE": [photo, photo, encoded[1]],
            "MASK": [encoded[2], torch.ones(photo.shape[1:3])],
            "PIDIFF_MODEL": [pidiff_model],
            "PIDIFF_WPLUS": [person, person, person, two],
            "another space": [model_class(space, torch.zeros(8, 6), source="tiny"), other],
        }


async def _as_coroutine(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


def _one_line(text: Any) -> str:
    return ascii(str(text)[:200])


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
    with contextlib.suppress(Exception):
        return ascii(value)[:80]
    return type(value).__name__
