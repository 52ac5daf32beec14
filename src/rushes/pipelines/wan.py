"""The Wan pipeline: text encoder, one or two diffusion transformers, VAE; the whole family and the toy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rushes.errors import InvalidRequest
from rushes.models.configs import WanConfig
from rushes.models.text import PromptEmbeds
from rushes.pipelines.base import Parts
from rushes.stages.base import Given, Job, NoiseExpert, Stage
from rushes.stages.denoise import Denoise, draw_noise
from rushes.stages.denoise_causal import DenoiseCausal
from rushes.stages.text_encode import EmbeddingCache, TextEncode
from rushes.stages.vae_decode import VaeDecode
from rushes.types import GenerateRequest, SamplingParams, VideoSpec

EMBEDDING_BYTES = 256 * 2**20
"""Of encoded texts kept on the device: 60 prompts of UMT5 in bfloat16, thousands of the toy's."""


class WanPipeline:
    """Stages of a Wan model over its `parts`; keeps nothing of a job but its encoded texts.

    Args:
        name: of the rules that its requests were resolved by.
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
        embedding_bytes: how much of encoded texts is kept between jobs.

    Attributes:
        embeddings: where they are kept.
    """

    def __init__(
        self,
        name: str,
        parts: Parts,
        *,
        boundary: float | None,
        device: torch.device,
        embedding_bytes: int = EMBEDDING_BYTES,
    ) -> None:
        self.name = name
        self._parts = parts
        self._boundary = boundary
        self._device = device
        self.embeddings = EmbeddingCache(embedding_bytes, lambda: parts.encoder_revision)
        text = TextEncode(name, parts.text_encoder, self.embeddings, device, beside=draw_noise)
        denoise = Denoise(name, parts.experts, boundary, device)
        causal = DenoiseCausal(name, parts.experts, device)
        decode = VaeDecode(name, parts.vae)
        self._whole: tuple[Stage, ...] = (text, denoise, decode)
        # Decoding stands first, so that a finished latent leaves before the next is begun.
        self._causal: tuple[Stage, ...] = (text, decode, causal)

    def job(
        self,
        request: GenerateRequest,
        given: Given,
        *,
        wants_video: bool = True,
        wants_preview: bool = False,
    ) -> Job:
        """See `Pipeline.job`."""
        if request.mode == "causal" and self._boundary is not None:
            raise InvalidRequest(
                "mode", "the causal mode needs one expert, this checkpoint has two; use 'full'"
            )
        if request.mode == "causal" and given.source is not None:
            raise InvalidRequest("mode", "the causal mode goes on from no source; use 'full'")
        shape = self.latent_shape(request.video)
        check_given(given, shape, self._parts.transformer_config)
        return Job(
            request=request,
            latent_shape=shape,
            guidance=self._guidance(request.sampling),
            given=given,
            wants_video=wants_video,
            wants_preview=wants_preview,
        )

    def stages(self, job: Job) -> tuple[Stage, ...]:
        """In order of precedence: the first that is not done runs next."""
        return self._causal if job.is_causal else self._whole

    def current(self, job: Job) -> Stage | None:
        """See `Pipeline.current`."""
        return next((stage for stage in self.stages(job) if not stage.done(job)), None)

    def synchronize(self) -> None:
        """See `Pipeline.synchronize`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def latent_shape(self, video: VideoSpec) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a clip's latents."""
        vae = self._parts.vae_config
        return (
            self._parts.transformer_config.in_channels,
            (video.num_frames - 1) // vae.temporal_stride + 1,
            video.height // vae.spatial_stride,
            video.width // vae.spatial_stride,
        )

    def _guidance(self, sampling: SamplingParams) -> dict[NoiseExpert, float]:
        if self._boundary is None:
            return {"high": sampling.guidance_high}
        return {"high": sampling.guidance_high, "low": sampling.guidance_low}


def check_given(given: Given, latent_shape: Sequence[int], config: WanConfig) -> None:
    """Raises `InvalidRequest` for given tensors that do not fit the clip or the model."""
    if given.latents is not None:
        wanted = (1, *latent_shape)
        if tuple(given.latents.shape) != wanted or not given.latents.is_floating_point():
            raise InvalidRequest(
                "latents", f"{_shown(given.latents)}; this clip needs floats of shape {wanted}"
            )
    for field in ("prompt_embeds", "negative_prompt_embeds"):
        embeds: PromptEmbeds | None = getattr(given, field)
        if embeds is not None:
            _check_embeds(field, embeds, config)


def _check_embeds(field: str, embeds: PromptEmbeds, config: WanConfig) -> None:
    states, pooled = embeds.states, embeds.pooled
    if states.ndim != 3 or states.shape[0] != 1 or states.shape[1] == 0 or states.shape[2] != config.text_dim:
        rule = f"needs shape (1, L, {config.text_dim}) with L >= 1 text tokens"
        raise InvalidRequest(field, f"{_shown(states)}; {rule}")
    if not states.is_floating_point():
        raise InvalidRequest(field, f"{_shown(states)}; needs floats")
    width = 0 if pooled is None else pooled.shape[-1]
    if width != config.pooled_dim:
        rule = f"this model reads a pooled vector of width {config.pooled_dim} beside the states"
        if config.pooled_dim == 0:
            rule = "this model reads no pooled vector"
        raise InvalidRequest(field, f"pooled vector of width {width}; {rule}: give rushes.PromptEmbeds")


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
