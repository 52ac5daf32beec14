"""Text in, conditioning out; and the keys and values of a text, computed once per noise expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rushes.models.text import PromptEmbeds, TextEncoder
from rushes.models.wan import TextContext, Wan
from rushes.stages.base import BatchKey, Job, NoiseExpert


class EncodedText:
    """The states of one text and, per noise expert and LoRA, the cross-attention's keys and values.

    Keys and values are large (0.4 GB per text and expert at 14B): made when first asked for, kept until
    `forget`. Not safe to share between threads.
    """

    def __init__(self, embeds: PromptEmbeds) -> None:
        self.embeds = embeds
        self._contexts: dict[tuple[NoiseExpert, str | None], TextContext] = {}

    @property
    def num_tokens(self) -> int:
        """Text tokens that the transformer attends to, padding included."""
        return self.embeds.states.shape[1]

    def context(self, expert: NoiseExpert, wan: Wan, lora: str | None = None) -> TextContext:
        """Keys and values for `expert` with this LoRA, whose network is `wan`."""
        if (expert, lora) not in self._contexts:
            self._contexts[expert, lora] = wan.encode_text(self.embeds.states, self.embeds.pooled)
        return self._contexts[expert, lora]

    def forget(self, expert: NoiseExpert) -> None:
        """Free the keys and values of an expert that has run its last step."""
        for key in [key for key in self._contexts if key[0] == expert]:
            del self._contexts[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What a job is steered by; `negative` only where some noise expert uses guidance."""

    prompt: EncodedText
    negative: EncodedText | None = None


class NegativePrompts:
    """The latest negative prompt of a pipeline, kept because nearly every request brings the same one."""

    def __init__(self) -> None:
        self._latest: tuple[str, EncodedText] | None = None

    def get(self, text: str, encode: Callable[[str], PromptEmbeds]) -> EncodedText:
        """The encoded `text`, by `encode` where it differs from the last one asked for."""
        if self._latest is None or self._latest[0] != text:
            self._latest = (text, EncodedText(encode(text)))
        return self._latest[1]


class TextEncode:
    """Encodes prompt and negative prompt; given embeddings pass through at their own length. One unit a job.

    Args:
        encoder: returns the text encoder, loading it when first called.
        negatives: where the negative prompt is kept between jobs.
        device: where given embeddings are moved to.
    """

    name = "text_encode"

    def __init__(
        self,
        pipeline: str,
        encoder: Callable[[], TextEncoder],
        negatives: NegativePrompts,
        device: torch.device,
    ) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._negatives = negatives
        self._device = device

    def prepare(self, job: Job) -> None:
        given = job.given
        if given.prompt_embeds is None or (job.is_guided and given.negative_prompt_embeds is None):
            self._encoder()

    def key(self, job: Job) -> BatchKey:
        return BatchKey(stage=self.name, pipeline=self._pipeline)

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            negative = self._negative(job) if job.is_guided else None
            job.text = Conditioning(prompt=self._prompt(job), negative=negative)

    def done(self, job: Job) -> bool:
        return job.text is not None or job.is_denoised

    def units(self, job: Job) -> int:
        return 1

    def _prompt(self, job: Job) -> EncodedText:
        if job.given.prompt_embeds is not None:
            return EncodedText(self._moved(job.given.prompt_embeds))
        return EncodedText(self._encode(job.request.prompt))

    def _negative(self, job: Job) -> EncodedText:
        if job.given.negative_prompt_embeds is not None:
            return EncodedText(self._moved(job.given.negative_prompt_embeds))
        return self._negatives.get(job.request.negative_prompt, self._encode)

    def _encode(self, text: str) -> PromptEmbeds:
        return self._moved(self._encoder().encode(text))

    def _moved(self, embeds: PromptEmbeds) -> PromptEmbeds:
        pooled = None if embeds.pooled is None else embeds.pooled.to(self._device)
        return PromptEmbeds(states=embeds.states.to(self._device), pooled=pooled)
