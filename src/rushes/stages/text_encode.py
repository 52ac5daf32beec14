"""Text in, conditioning out; and the keys and values of a text, computed once per noise expert."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock

import torch

from rushes.models.prompts import clean_prompt
from rushes.models.text import PromptEmbeds, TextEncoder
from rushes.models.wan import TextContext, Wan
from rushes.stages.base import BatchKey, Job, NoiseExpert
from rushes.stages.shared_embeddings import EmbeddingKey, SharedEmbeddings
from rushes.trace import event, is_on, span, traced


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
            with span("text_context", expert=expert):
                _tell_stream(self.embeds)
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


def _tell_stream(embeds: PromptEmbeds) -> None:
    """Say that the current stream reads these, which another one may have made: their memory, once free, then
    waits for it."""
    for tensor in (embeds.states, embeds.pooled):
        if tensor is not None and tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


NUM_DROPPED = 1000
"""Texts of which it is remembered that they were kept once."""


class EmbeddingCache:
    """Encoded texts, so that a text which comes again is not encoded again. For any number of threads.

    The latest negative prompt is pinned, since nearly every request brings the same one: it is never dropped
    for want of room, and what the noise experts made of it is kept with it.

    Args:
        max_bytes: of embeddings kept; the least recently used leave first.
        revision: names the encoder; called when a text is first looked up.

    Attributes:
        hits, misses: lookups that found their text, and those that had it encoded.
        shared_hits: of the hits, those of texts that another process encoded.
        num_bytes: of the embeddings kept.
        shared: where a text that is not kept here is looked for before it is encoded, and left for others
            afterwards; None for nowhere.
    """

    def __init__(self, max_bytes: int, revision: Callable[[], str] = str) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = self.shared_hits = self.num_bytes = 0
        self.shared: SharedEmbeddings | None = None
        self._revision = revision
        self._kept: dict[EmbeddingKey, PromptEmbeds] = {}  # least recently used first
        self._negative: EncodedText | None = None
        self._pinned: EmbeddingKey | None = None
        self._dropped: deque[int] = deque(maxlen=NUM_DROPPED)  # hashes: they only tell why a look-up missed
        self._recalled: set[EmbeddingKey] = set()  # encoded elsewhere, and not asked for since
        # Held while a text is encoded, so that two threads that bring one text encode it once.
        self._lock = RLock()

    def __contains__(self, text: str) -> bool:
        """Whether `get` would find it, here or where it is shared; counts as no lookup."""
        with self._lock:
            return self._has(self._key(text))

    def get(self, text: str, encode: Callable[[str], PromptEmbeds]) -> PromptEmbeds:
        """The embeddings of `text`, by `encode` where they are not kept."""
        with self._lock:
            key = self._key(text)
            is_hit = self._has(key)
            if is_on():
                event("embedding_cache", **self._outcome(key, is_hit=is_hit))
            if is_hit:
                self.hits += 1
                self.shared_hits += key in self._recalled
                self._recalled.discard(key)
                embeds = self._kept[key] = self._kept.pop(key)
                return embeds
            self.misses += 1
            embeds = encode(text)
            self._keep(key, embeds)
            if self.shared is not None:
                self.shared.put(key, embeds)
            return embeds

    def negative(self, text: str, encode: Callable[[str], PromptEmbeds]) -> EncodedText:
        """The same for a negative prompt, which is pinned until another one comes; all jobs share it."""
        with self._lock:
            key, pinned = self._key(text), self._pinned
            self._pinned = key
            try:
                embeds = self.get(text, encode)
            except BaseException:
                self._pinned = pinned
                raise
            if self._negative is None or key != pinned:
                self._negative = EncodedText(embeds)
            return self._negative

    def _key(self, text: str) -> EmbeddingKey:
        return self._revision(), clean_prompt(text)

    def _outcome(self, key: EmbeddingKey, *, is_hit: bool) -> dict[str, str]:
        if is_hit:
            kept = "pinned" if key == self._pinned else "kept"
            why = "shared" if key in self._recalled else kept
            return {"outcome": "hit", "why": why}
        why = "dropped for want of room" if hash(key) in self._dropped else "new text"
        return {"outcome": "miss", "why": why}

    def _has(self, key: EmbeddingKey) -> bool:
        """Whether it is kept here, fetched if need be."""
        if key not in self._kept and self.shared is not None and (embeds := self.shared.get(key)) is not None:
            self._recalled.add(key)
            self._keep(key, embeds)
        return key in self._kept

    def _keep(self, key: EmbeddingKey, embeds: PromptEmbeds) -> None:
        self._kept[key] = embeds
        self.num_bytes += embeds.nbytes
        self._shrink()

    def _shrink(self) -> None:
        for key in list(self._kept):
            if self.num_bytes <= self.max_bytes:
                return
            if key != self._pinned:
                self.num_bytes -= self._kept.pop(key).nbytes
                self._dropped.append(hash(key))
                self._recalled.discard(key)


class TextEncode:
    """Encodes prompt and negative prompt; given embeddings pass through at their own length. One unit a job.

    Args:
        encoder: returns the text encoder, loading it when first called.
        cache: where encoded texts are kept between jobs.
        device: where given embeddings are moved to.
        beside: called with a job before its texts are encoded, to begin what the host can do meanwhile.
    """

    name = "text_encode"
    runs_ahead = False

    def __init__(
        self,
        pipeline: str,
        encoder: Callable[[], TextEncoder],
        cache: EmbeddingCache,
        device: torch.device,
        *,
        beside: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._cache = cache
        self._device = device
        self._beside = beside

    @traced("load", stage="text_encode")
    def prepare(self, job: Job) -> None:
        if any(text not in self._cache for text in _texts_to_encode(job)):
            self._encoder()

    def key(self, job: Job) -> BatchKey:
        return BatchKey(stage=self.name, pipeline=self._pipeline)

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._beside(job)
            negative = self._negative(job) if job.is_guided else None
            job.text = Conditioning(prompt=self._prompt(job), negative=negative)

    def done(self, job: Job) -> bool:
        return job.text is not None or job.is_denoised

    def units(self, job: Job) -> int:
        return 1

    def _prompt(self, job: Job) -> EncodedText:
        if job.given.prompt_embeds is not None:
            return EncodedText(self._moved(job.given.prompt_embeds))
        return EncodedText(self._cache.get(job.request.prompt, self._encode))

    def _negative(self, job: Job) -> EncodedText:
        if job.given.negative_prompt_embeds is not None:
            return EncodedText(self._moved(job.given.negative_prompt_embeds))
        return self._cache.negative(job.request.negative_prompt, self._encode)

    def _encode(self, text: str) -> PromptEmbeds:
        with span("encode_text"):
            return self._moved(self._encoder().encode(text))

    def _moved(self, embeds: PromptEmbeds) -> PromptEmbeds:
        pooled = None if embeds.pooled is None else embeds.pooled.to(self._device)
        return PromptEmbeds(states=embeds.states.to(self._device), pooled=pooled)


def _texts_to_encode(job: Job) -> list[str]:
    """Those that the job needs and did not bring embeddings of."""
    texts = [job.request.prompt] if job.given.prompt_embeds is None else []
    if job.is_guided and job.given.negative_prompt_embeds is None:
        texts.append(job.request.negative_prompt)
    return texts
