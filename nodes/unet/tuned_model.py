"""ComfyUI's UNet as the model that a person's tuning asks: see `pidiff_core.training.person.TunedModel`.

ComfyUI runs nodes in inference mode, and weights that were loaded in it can take no part in a backward pass. So the
UNet is copied, with the LoRAs that the host has merged into it, for as long as the tuning takes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from ...pidiff_core.adapter.adapter import IdentityAdapter
from ...pidiff_core.adapter.attention import SiteBranch
from ...pidiff_core.adapter.sites import Site
from ...pidiff_core.errors import PIDiffError
from .sites import fitting_sites

if TYPE_CHECKING:
    from ...pidiff_core.training.person import Prediction

_CLEANEST, _NOISIEST = 0.999, 0.001  # of the sampling: at its very ends the host's sigma is 0 or unbounded
_PREVIEW_LEVEL = 0.7


class TunedHostModel:
    """A frozen copy of a model's UNet with the photos of a person in its latent space.

    Call it in `torch.inference_mode(False)`.

    Args:
        model: the user's; it is not changed. Identities that are applied to it are left out.
        adapter: the one that tunes, on the model's device.
        positive: CONDITIONING for all photos.
        latents: one (1, C, h, w) a photo, as the VAE gives them.
        masks: one (1, 1, H, W) a photo, 1 = face.

    Raises:
        PIDiffError: the adapter does not fit, or the copy does not fit into memory.
    """

    def __init__(
        self,
        model: ModelPatcher,
        adapter: IdentityAdapter,
        *,
        positive: list[Any],
        latents: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> None:
        fitting_sites(model, adapter)  # or an error
        self.photos = len(latents)
        self.device = model.load_device
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        self._base = _trainable_copy(model)
        self._sampling = self._base.model_sampling
        # Errors of a model that predicts v weigh more where there is little noise: as the model's own training did.
        self._predicts_v = "V_PREDICTION" in self._base.model_type.name
        self._latents = [self._base.process_latent_in(one.clone().to(self.device, torch.float32)) for one in latents]
        self._masks = [
            F.interpolate(mask.clone().to(self.device, torch.float32), size=one.shape[-2:], mode="area")
            for mask, one in zip(masks, self._latents, strict=True)
        ]
        self._positive = comfy.sampler_helpers.convert_cond(positive)
        self._tokens: Tensor | None = None
        self._maps: dict[str, Tensor] = {}
        self._patches = {}
        for spec in adapter.config.sites:
            site = Site.from_name(spec.name)
            key = (site.block, site.number, site.index)
            self._patches[key] = _TunedSite(self, spec.name, adapter.branch(spec.name))

    def predict(self, photo: int, levels: Tensor, *, noise_seed: int, tokens: Tensor | None) -> Prediction:
        """See `pidiff_core.training.person.TunedModel`. Predictions are clean latents, weighted as noise would be."""
        from ...pidiff_core.training.person import Prediction

        rows = len(levels)
        clean = self._latents[photo].expand(rows, -1, -1, -1)
        sigma = self._sigmas(levels)
        denoised = self._denoise(clean, sigma, noise_seed=noise_seed, tokens=tokens)
        scale = rearrange(((1 + sigma.square()).sqrt() if self._predicts_v else 1.0) / sigma, "b -> b 1 1 1")
        mask = self._masks[photo].expand(rows, -1, -1, -1)
        return Prediction(denoised * scale, clean * scale, mask, self._maps)

    @torch.no_grad()
    def preview(self, tokens: Tensor) -> Tensor:
        """The first photo as the model completes it from strong noise with this identity: latents for the VAE."""
        sigma = self._sigmas(torch.tensor([_PREVIEW_LEVEL]))
        return self._base.process_latent_out(self._denoise(self._latents[0], sigma, noise_seed=0, tokens=tokens))

    def _sigmas(self, levels: Tensor) -> Tensor:
        percents = (1 - levels).clamp(_NOISIEST, _CLEANEST).tolist()
        return torch.tensor([float(self._sampling.percent_to_sigma(percent)) for percent in percents]).to(self.device)

    def _denoise(self, clean: Tensor, sigma: Tensor, *, noise_seed: int, tokens: Tensor | None) -> Tensor:
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(noise_seed)).to(self.device)
        noisy = clean + rearrange(sigma, "b -> b 1 1 1") * noise
        encoded = comfy.samplers.encode_model_conds(
            self._base.extra_conds, copy.deepcopy(self._positive[:1]), noise, self.device, "positive"
        )
        conds = {
            name: cond.process_cond(batch_size=len(clean), device=self.device, area=None).cond
            for name, cond in encoded[0]["model_conds"].items()
        }
        options = {"patches_replace": {"attn2": dict(self._patches)}, "cond_or_uncond": [0], "sigmas": sigma}
        self._tokens = None if tokens is None else tokens.expand(len(clean), -1, -1)
        self._maps = {}
        try:
            return self._base.apply_model(noisy, sigma, **conds, transformer_options=options).float()
        finally:
            self._tokens = None

    def attended(self, name: str, branch: SiteBranch, *, q: Tensor, text_output: Tensor) -> Tensor:
        """The identity's part at a site, zero outside of `predict` with tokens; keeps the site's map."""
        if self._tokens is None:
            return text_output
        added, self._maps[name] = branch(q.float(), text_output.float(), tokens=self._tokens)
        return text_output + added.to(text_output)


class _TunedSite:
    """What the host calls in place of a cross-attention."""

    def __init__(self, model: TunedHostModel, name: str, branch: SiteBranch) -> None:
        self.model, self.name, self.branch = model, name, branch

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """q (B, N, C), k, v (B, L, C), heads merged -> (B, N, C)."""
        heads = extra_options["n_heads"]
        q_heads, k_heads, v_heads = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
        text_output = rearrange(F.scaled_dot_product_attention(q_heads, k_heads, v_heads), "b h n d -> b n (h d)")
        return self.model.attended(self.name, self.branch, q=q, text_output=text_output)


def _trainable_copy(model: ModelPatcher) -> Any:
    """The host's BaseModel around a copy of its UNet whose weights may take part in a backward pass."""
    base = copy.copy(model.model)
    base._modules = dict(base._modules)  # `copy.copy` shares it: the user's model would get the copy
    try:
        base.diffusion_model = copy.deepcopy(model.model.diffusion_model).to(model.load_device)
    except torch.OutOfMemoryError as error:
        raise PIDiffError(
            "The memory does not hold a second copy of the UNet, which tuning needs. Close other programs, or use a "
            "smaller model."
        ) from error
    base.diffusion_model.requires_grad_(False)
    return base
