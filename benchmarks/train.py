"""Training the localise stage on a full-size Stable Diffusion 1.5 UNet, compared with W+ Adapter's published step.

Random weights, the same pictures, captions, codes and masks for all; the steps run in turn and each round gives one
ratio; the medians of the ratios are reported. A step ends with the optimiser (AdamW).

published   W+ Adapter's train_wild.py: the pictures through the VAE and the captions through CLIP at every step, then
            three separate passes of the UNet: its own codes, disturbed codes, strength 0.
same terms  ours, latents and texts from the cache, all extra terms on the whole batch.
sampled     ours with the extra terms on a quarter of the samples, which the presets use (mean of whole cycles).

step_vs_wplus            same terms / published
step_vs_wplus_sampled    sampled / published
unet_vs_wplus, ..._sampled   the same against the published step without its VAE and text encoder: the UNet alone
memory_vs_wplus          peak memory, ours with gradient checkpointing / published; each in a process of its own

--sdxl takes a UNet of SDXL's topology with narrow layers. W+ Adapter has no such step: here it gets the pooled text and
the sizes too, and the SD 1.x encoders, so that only the figures of the UNet compare the two methods.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from pidiff_core.adapter.adapter import IdentityAdapter
from pidiff_core.adapter.config import AdapterConfig
from pidiff_core.training.bases.base import predict as base_prediction
from pidiff_core.training.bases.base import schedule
from pidiff_core.training.batches import samples_of_extra_terms
from pidiff_core.training.diffusers_processor import cross_attention_sites
from pidiff_core.training.strategy import IdentityTraining, StrategyConfig

ASKED = {"step_vs_wplus": 0.75, "step_vs_wplus_sampled": 0.60, "memory_vs_wplus": 0.8}
FRACTION = 0.25
CONTEXT, TOKENS, STYLES, CODE = 768, 77, 18, 512
POOLED, SIZE_WIDTH = 1280, 256  # of SDXL's pooled text, and of the embedding of each of its six sizes
NARROW_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 128, 256), "attention_head_dim": (1, 2, 4), "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
    "addition_time_embed_dim": SIZE_WIDTH, "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_WIDTH,
}  # fmt: skip


class PublishedProcessor(nn.Module):
    """W+ Adapter at one cross-attention: four tokens at the end of the text, queries from the text's output."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        width, context = attention.to_q.out_features, attention.to_k.in_features
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.scale = 1.0

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        text, tokens = encoder_hidden_states[:, :-4], encoder_hidden_states[:, -4:]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=attn.heads) for x in (q, k, v))
            return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")

        out = attend(attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        out = out + self.scale * attend(self.to_q(out), self.to_k(tokens), self.to_v(tokens))
        return attn.to_out[1](attn.to_out[0](out))


class PublishedStep:
    """One optimiser step of W+ Adapter's second stage, as its authors' train_wild.py does it."""

    def __init__(self, unet: Any, vae: Any, text: Any, *, bf16: bool) -> None:
        self.unet, self.vae, self.text, self.bf16 = unet, vae, text, bf16
        self.processors = {
            name: PublishedProcessor(unet.get_submodule(name.removesuffix(".processor")))
            if ".attn2." in name
            else processor
            for name, processor in unet.attn_processors.items()
        }
        own = [one for one in self.processors.values() if isinstance(one, PublishedProcessor)]
        self.own = nn.ModuleList(own).to(unet.device)
        groups = (4, 4, 4, 6)
        self.projections = nn.ModuleList(nn.Linear(n * CODE, CONTEXT, bias=False) for n in groups).to(unet.device)
        self.norm = nn.LayerNorm(CONTEXT).to(unet.device)
        self.projections.requires_grad_(False)
        self.norm.requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.own.parameters(), lr=1e-4, weight_decay=0.01)
        self.alphas = schedule().to(unet.device)

    def tokens(self, codes: Tensor) -> Tensor:
        parts = torch.split(codes, [4, 4, 4, 6], dim=1)
        return self.norm(torch.stack([p(part.flatten(1)) for p, part in zip(self.projections, parts)], dim=1))

    def __call__(self, inputs: dict[str, Tensor], *, encode: bool) -> float:
        self.unet.set_attn_processor(dict(self.processors))
        with torch.autocast(inputs["clean"].device.type, torch.bfloat16, enabled=self.bf16):
            latents, context = inputs["clean"], inputs["context"]
            if encode:
                with torch.no_grad():
                    latents = self.vae.encode(inputs["images"]).latent_dist.sample() * 0.18215
                    context = self.text(inputs["ids"])[0]
            times, noise = inputs["timesteps"], inputs["noise"]
            added = {name: inputs[name] for name in ("pooled", "size_conditions") if name in inputs}
            alphas = rearrange(self.alphas[times], "b -> b 1 1 1")
            noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise

            def predict(codes: Tensor) -> Tensor:
                both = torch.cat([context, self.tokens(codes)], dim=1)
                return base_prediction(self.unet, noisy, times, context=both, **added).float()

            own = predict(inputs["codes"])
            with torch.no_grad():
                disturbed = predict(inputs["other_codes"])
                self.scale(0.0)
                without = predict(inputs["other_codes"])
                self.scale(1.0)
            outside = 1 - inputs["mask"]
            loss = F.mse_loss(own, noise) + 2.0 * F.mse_loss(disturbed * outside, own * outside)
            loss = loss + F.mse_loss(without, own)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()

    def scale(self, value: float) -> None:
        for one in self.own:
            one.scale = value


class OurStep:
    """One optimiser step of the localise stage as the training loop does it."""

    def __init__(self, unet: Any, *, bf16: bool, fraction: float, checkpointing: bool = False) -> None:
        self.bf16, self.fraction, self.count = bf16, fraction, 0
        config = AdapterConfig(
            sites=cross_attention_sites(unet), num_styles=STYLES, code_width=CODE, token_width=CONTEXT
        )
        self.module = IdentityTraining(
            unet,
            IdentityAdapter(config).to(unet.device),
            stage="localise",
            config=StrategyConfig(extra_fraction=fraction),
            prediction="epsilon",
            alphas_cumprod=schedule(),
        )
        self.processors = unet.attn_processors
        if checkpointing:
            self.module.binding.enable_gradient_checkpointing()
        self.parameters = [one for one in self.module.parameters() if one.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.01)

    def __call__(self, inputs: dict[str, Tensor]) -> float:
        self.module.unet.set_attn_processor(dict(self.processors))
        chosen = samples_of_extra_terms(self.count, size=len(inputs["clean"]), fraction=self.fraction)
        self.count += 1
        extra_rows = chosen.nonzero()[:, 0].to(inputs["clean"].device)
        with torch.autocast(extra_rows.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.module({**inputs, "extra_rows": extra_rows})["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()


def networks(device: torch.device, *, narrow: bool, encoders: bool, sdxl: bool = False) -> tuple[Any, Any, Any]:
    """Random UNet, VAE and CLIP of Stable Diffusion 1.5; narrow ones to try the benchmark, or for SDXL's topology."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    layers: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64) if narrow else (320, 640, 1280, 1280)}
    with device:
        unet = UNet2DConditionModel(cross_attention_dim=CONTEXT, **(NARROW_XL if sdxl else layers))
    vae = text = None
    if encoders:
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        widths = (32, 32, 32, 32) if narrow else (128, 256, 512, 512)
        with device:
            vae = AutoencoderKL(**blocks, block_out_channels=widths, layers_per_block=2).requires_grad_(False)
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=CONTEXT, intermediate_size=4 * CONTEXT,
            num_hidden_layers=1 if narrow else 12, num_attention_heads=12,
        )  # fmt: skip
        with device:
            text = CLIPTextModel(config).requires_grad_(False)
    return unet.requires_grad_(False).eval(), vae, text


def random_inputs(size_px: int, batch: int, device: torch.device, *, sdxl: bool = False) -> dict[str, Tensor]:
    """Of one step; the face covers a quarter of the picture."""
    generator = torch.Generator().manual_seed(1)
    side = size_px // 8

    def normal(*shape: int) -> Tensor:
        return torch.randn((batch, *shape), generator=generator)

    mask = torch.zeros(side, side)
    mask[side // 4 : side // 4 * 3, side // 4 : side // 4 * 3] = 1
    inputs = {
        "clean": normal(4, side, side), "noise": normal(4, side, side), "context": normal(TOKENS, CONTEXT),
        "timesteps": torch.randint(0, 1000, (batch,), generator=generator), "codes": normal(STYLES, CODE),
        "other_codes": normal(STYLES, CODE), "mask": repeat(mask, "h w -> b 1 h w", b=batch),
        "images": normal(3, size_px, size_px).clamp(-1, 1),
        "ids": torch.randint(0, 49407, (batch, TOKENS), generator=generator),
    }  # fmt: skip
    if sdxl:
        inputs["pooled"] = normal(POOLED)
        inputs["size_conditions"] = torch.tensor([[size_px, size_px, 0, 0, size_px, size_px]] * batch).float()
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def seconds(run: Callable[[], float], device: torch.device) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()  # its loss is read, which waits for the device
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes(which: str, options: argparse.Namespace) -> int:
    """Peak memory of one kind of step, in a process of its own.

    glibc keeps freed memory if a piece is smaller than its threshold, which grows up to 32 MiB. Most activations are
    smaller, and a process would hold about 0.8 GiB that nothing uses. With a fixed threshold it holds what is alive.
    """
    command = [sys.executable, str(Path(__file__).resolve().parents[1] / "scripts" / "bench.py"), "train"]
    command += ["--only", which, "--px", str(options.px), "--batch", str(options.batch), "--device", options.device]
    command += ["--precision", options.precision, *(["--narrow"] if options.narrow else [])]
    command += ["--sdxl"] if options.sdxl else []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def measured_alone(options: argparse.Namespace, device: torch.device) -> int:
    """Two steps of one kind, and the peak memory of this process or of the GPU."""
    bf16 = options.precision == "bf16"
    published = options.only == "published"
    unet, vae, text = networks(device, narrow=options.narrow, encoders=published, sdxl=options.sdxl)
    inputs = random_inputs(options.px, options.batch, device, sdxl=options.sdxl)
    if published:
        step = PublishedStep(unet, vae, text, bf16=bf16)
        run: Callable[[], float] = lambda: step(inputs, encode=True)  # noqa: E731
    else:
        ours = OurStep(unet, bf16=bf16, fraction=1.0, checkpointing=True)
        run = lambda: ours(inputs)  # noqa: E731
    for _ in range(2):
        run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main(arguments: list[str]) -> int:
    """Run it; status 1 if a published figure is missed."""
    parser = argparse.ArgumentParser(
        prog="bench.py train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--px", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all three")
    parser.add_argument("--narrow", action="store_true", help="small networks, to try the benchmark")
    parser.add_argument("--sdxl", action="store_true", help="narrow networks of SDXL's topology")
    parser.add_argument("--only", choices=("published", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.narrow |= options.sdxl
    device, bf16 = torch.device(options.device), options.precision == "bf16"
    if options.only:
        print(json.dumps({"peak_bytes": measured_alone(options, device)}))
        return 0

    memory = {which: peak_bytes(which, options) for which in ("published", "ours")}
    print(f"peak memory: published {memory['published'] / 2**30:.2f} GiB, ours {memory['ours'] / 2**30:.2f} GiB")
    unet, vae, text = networks(device, narrow=options.narrow, encoders=True, sdxl=options.sdxl)
    inputs = random_inputs(options.px, options.batch, device, sdxl=options.sdxl)
    published = PublishedStep(unet, vae, text, bf16=bf16)
    same = OurStep(unet, bf16=bf16, fraction=1.0)
    same.module.binding.detach()
    sampled = OurStep(unet, bf16=bf16, fraction=FRACTION)
    cycle = max(1, round(1 / (FRACTION * options.batch)))
    kinds: dict[str, Callable[[], float]] = {
        "published": lambda: published(inputs, encode=True),
        "published UNet": lambda: published(inputs, encode=False),
        "same terms": lambda: same(inputs),
        "sampled": lambda: statistics.fmean(sampled(inputs) for _ in range(cycle)),
    }
    for run in kinds.values():
        run()
    rounds = []
    for number in range(options.rounds):
        times = {name: seconds(run, device) / (cycle if name == "sampled" else 1) for name, run in kinds.items()}
        rounds.append(times)
        print(f"round {number + 1}: " + ", ".join(f"{name} {value:.2f} s" for name, value in times.items()), flush=True)

    def ratio(ours: str, theirs: str) -> float:
        return round(statistics.median(times[ours] / times[theirs] for times in rounds), 3)

    result = {
        "step_vs_wplus": ratio("same terms", "published"),
        "step_vs_wplus_sampled": ratio("sampled", "published"),
        "memory_vs_wplus": round(memory["ours"] / memory["published"], 3),
        "unet_vs_wplus": ratio("same terms", "published UNet"),
        "unet_vs_wplus_sampled": ratio("sampled", "published UNet"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "base": "narrow sdxl" if options.sdxl else "narrow sd15" if options.narrow else "sd15",
        "px": options.px, "batch": options.batch, "precision": options.precision,
    }  # fmt: skip
    print(json.dumps(result))
    missed = [name for name, limit in ASKED.items() if float(result[name]) > limit]
    return int(bool(missed) and not options.narrow)
