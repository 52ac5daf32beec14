"""Weights from files to a device by several threads: each reads one piece while the one before it travels.

A copy out of a mapped file straight to a GPU would go through one small buffer of the driver's, on one core.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20


class Stager:
    """Copies tensors to one device, through two buffers of host memory (pinned for a GPU) and a stream of its
    own. For one thread; `finish` before what it copied is used.

    Args:
        chunk_bytes: of each buffer.
    """

    def __init__(self, device: torch.device, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._device, self._is_cuda = device, device.type == "cuda"
        self._buffers = [
            torch.empty(chunk_bytes, dtype=torch.uint8, pin_memory=self._is_cuda) for _ in range(2)
        ]
        self._sent: list[torch.cuda.Event | None] = [None, None]
        self._next = 0
        self._stream: torch.cuda.Stream | None = None
        if self._is_cuda:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The targets may lie where memory was freed a moment ago, by work that still runs.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue `target.copy_(source)`; source is on the host, target dense on the device."""
        num = self._buffers[0].numel() // source.element_size()
        targets, sources = (torch.split(tensor.reshape(-1), num) for tensor in (target, source))
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for piece, stored in zip(targets, sources, strict=True):
                buffer = self._free_buffer()[: stored.nbytes].view(stored.dtype)
                buffer.copy_(stored)
                if stored.dtype != piece.dtype:  # the device casts: as exact, and faster than the host
                    buffer = buffer.to(self._device, non_blocking=True)
                piece.copy_(buffer, non_blocking=True)
                self._record()

    def finish(self) -> None:
        """Wait until all that was queued has arrived."""
        if self._stream is not None:
            self._stream.synchronize()

    def _free_buffer(self) -> Tensor:
        sent = self._sent[self._next]
        if sent is not None:
            sent.synchronize()
        return self._buffers[self._next]

    def _record(self) -> None:
        if self._stream is not None:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
            self._sent[self._next] = event
        self._next = 1 - self._next
