"""A small training run as a program, for tests that start it in several processes and kill it.

    python small_run.py FOLDER STEPS [--accumulation N] [--sharding fsdp2] [--every N] [--optimiser NAME]

It trains the localise stage on random data that depends on the step alone, and writes the adapter's final weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition for deterministic sums

import torch  # noqa: E402

from pidiff_core.adapter.adapter import IdentityAdapter  # noqa: E402
from pidiff_core.adapter.config import AdapterConfig  # noqa: E402
from pidiff_core.training.bases.base import Base, Parts, TextCondition, schedule  # noqa: E402
from pidiff_core.training.diffusers_processor import cross_attention_sites  # noqa: E402
from pidiff_core.training.loop import LoopConfig  # noqa: E402
from pidiff_core.training.stages import train_stage  # noqa: E402
from pidiff_core.training.strategy import StrategyConfig  # noqa: E402

SIZE = 4


def small_base() -> Base:
    """A base of two levels; what is not its UNet is not there."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
    )

    def absent() -> None:
        raise AssertionError("only the UNet is used")

    return Base(
        name="small",
        family="sd15",
        prediction="epsilon",
        alphas_cumprod=schedule(),
        context_width=16,
        latent_channels=4,
        latent_scale=1.0,
        parts=Parts(unet=lambda: unet, autoencoder=absent, text=absent, weights=dict),
        device=torch.device("cpu"),
    )


class RandomPhotos:
    """Prepared data made of noise that the step decides."""

    latent_avg, code_std = torch.zeros(10, 12), torch.ones(10, 12)
    null_text = TextCondition(torch.zeros(1, 5, 16))

    def __len__(self) -> int:
        return SIZE

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, world: int = 1, **_: object) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        rows = slice(rank * size // world, (rank + 1) * size // world)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn((size, *shape), generator=generator)[rows]

        mask = torch.zeros(size, 1, 8, 8)
        mask[:, :, 2:6, 2:6] = 1
        return SimpleNamespace(
            latents=normal(4, 8, 8), context=normal(5, 16), pooled=None, size_conditions=None, face_mask=mask[rows],
            codes=normal(10, 12), other_codes=normal(10, 12), files=[f"{step}-{row}.png" for row in range(size)],
        )  # fmt: skip


def main() -> None:
    """Train and save the final weights, unless the run was stopped before its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--sharding", default="none")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--optimiser", default="adamw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # on a GPU, sums of gradients else come in any order
    base = small_base()
    config = AdapterConfig(
        sites=cross_attention_sites(base.unet), num_styles=10, code_width=12, token_width=16, query="text"
    )
    torch.manual_seed(1)
    adapter = IdentityAdapter(config)
    finished = train_stage(
        base,
        adapter,
        RandomPhotos(),
        stage="localise",
        size=SIZE,
        strategy=StrategyConfig(extra_fraction=0.5, code_jitter=0.1, drop_identity=0.1, drop_text=0.1),
        loop=LoopConfig(
            steps=options.steps, learning_rate=1e-2, warmup_steps=5, log_every=1, checkpoint_every=options.every,
            validate_every=options.every, precision="fp32", compiled=False, accumulation=options.accumulation,
            sharding=options.sharding, optimiser=options.optimiser, seed=7,
        ),
        folder=options.folder,
        held_out=RandomPhotos(),
        samples=None,
    )  # fmt: skip
    if finished:
        from accelerate import PartialState

        from pidiff_core.training.state import gathered

        weights = gathered(adapter.state_dict())
        if PartialState().is_main_process:
            torch.save(weights, options.folder / "final.pt")


if __name__ == "__main__":
    main()
