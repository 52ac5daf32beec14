"""Encoded texts that the workers of a service share, through a cache of bytes that may lose them."""

from __future__ import annotations

import hashlib
import logging

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rushes.models.text import PromptEmbeds
from rushes.stores.kv import KVStore
from rushes.trace import span

log = logging.getLogger(__name__)

EmbeddingKey = tuple[str, str]
"""Revision of the encoder, and the text as the encoder reads it."""

FORMAT = "1"
DIGEST_BYTES = 16
TTL_S = 7 * 86_400.0


class SharedEmbeddings:
    """Embeddings under the digest of their text: whoever reads the cache's keys learns no prompt.

    What comes back is bit for bit what was put. Workers share what devices of one kind, under one version of
    torch, encoded with one encoder; other kinds round in other places.

    Args:
        kv: where they lie.
        device: where embeddings are needed, and were made.
    """

    def __init__(self, kv: KVStore, device: torch.device) -> None:
        self._kv, self._device = kv, device
        self._maker = f"{FORMAT} {_kind(device)} {torch.__version__}"

    def get(self, key: EmbeddingKey) -> PromptEmbeds | None:
        """None where nobody has encoded it, or it was lost or damaged."""
        with span("shared_embeddings"):
            data = self._kv.get(self._name(key))
            return None if data is None else self._unpack(data)

    def put(self, key: EmbeddingKey, embeds: PromptEmbeds) -> None:
        """Leave it for others. Waits for the device."""
        with span("shared_embeddings"):
            self._kv.put(self._name(key), pack(embeds), ttl_s=TTL_S)

    def _name(self, key: EmbeddingKey) -> str:
        revision, text = key
        return f"embedding:{hashlib.sha256(chr(0).join((self._maker, revision, text)).encode()).hexdigest()}"

    def _unpack(self, data: bytes) -> PromptEmbeds | None:
        try:
            embeds = unpack(data)
        except ValueError as error:
            log.warning("a shared embedding is encoded anew: %s", error)
            return None
        pooled = None if embeds.pooled is None else embeds.pooled.to(self._device)
        return PromptEmbeds(states=embeds.states.to(self._device), pooled=pooled)


def pack(embeds: PromptEmbeds) -> bytes:
    """A digest and a safetensors file of it, without the zeros behind the text: most of 512 tokens are."""
    states = embeds.states.cpu()
    tensors = {
        "states": states[:, : _num_used(states)].contiguous(),
        "num_tokens": torch.tensor(states.shape[1]),
    }
    if embeds.pooled is not None:
        tensors["pooled"] = embeds.pooled.cpu().contiguous()
    content = save(tensors)
    return _digest(content) + content


def unpack(data: bytes) -> PromptEmbeds:
    """The inverse of `pack`, on the CPU. Raises `ValueError` for anything else."""
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if digest != _digest(content):
        raise ValueError(f"its {len(data)} bytes are damaged")
    try:
        tensors = load(content)
        used, num_tokens = tensors["states"], int(tensors["num_tokens"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not an embedding: {error}") from error
    states = used.new_zeros((used.shape[0], num_tokens, used.shape[2]))
    states[:, : used.shape[1]] = used
    return PromptEmbeds(states=states, pooled=tensors.get("pooled"))


def _num_used(states: Tensor) -> int:
    """Tokens up to the last one that is not all +0, bit by bit: -0 is kept."""
    bits = states.contiguous().view(torch.uint8)
    used = bits.any(dim=-1).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _kind(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
