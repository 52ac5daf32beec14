"""Tensors and what is said of them as one file that tells whether it is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from hashlib import blake2b

from safetensors.torch import load, save
from torch import Tensor

from rushes.errors import ResumeError
from rushes.types import GenerateRequest

_NO_DIGEST = "0" * 64
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')
_MAX_HEADER_BYTES = 2**20


def seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose metadata hold a digest over all of it."""
    # Copies: two names may stand for one tensor, which the format cannot say.
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    data = save(copies, {**metadata, "digest": _NO_DIGEST})
    start, end = _digest_span(data)
    return b"".join((data[:start], _digest(data, start, end), data[end:]))


def metadata_of(data: bytes) -> dict[str, str]:
    """What is said of the tensors. Raises `ResumeError` for bytes that are damaged or not all there."""
    start, end = _digest_span(data)
    if data[start:end] != _digest(data, start, end):
        raise ResumeError(f"damaged: {len(data)} bytes that do not match their digest")
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """Of bytes that are known to be whole."""
    tensors: dict[str, Tensor] = load(data)
    return tensors


@lru_cache(maxsize=64)
def request_digest(request: GenerateRequest) -> str:
    """A name for all fields of a request."""
    fields = json.dumps(asdict(request), sort_keys=True)
    return blake2b(fields.encode(), digest_size=16).hexdigest()


def _digest_span(data: bytes) -> tuple[int, int]:
    """Where the digest stands. It lies in the file's header, and counts as zeros in what it is made from."""
    found = _DIGEST.search(data, 0, _MAX_HEADER_BYTES)
    if found is None:
        raise ResumeError(f"damaged: {len(data)} bytes without a digest")
    return found.span(1)


def _digest(data: bytes, start: int, end: int) -> bytes:
    view = memoryview(data)
    digest = blake2b(view[:start], digest_size=32)
    digest.update(_NO_DIGEST.encode())
    digest.update(view[end:])
    return digest.hexdigest().encode()
