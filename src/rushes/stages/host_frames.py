"""Decoded frames on their way from a GPU to the host."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_LOCKED_BYTES = 256 * 2**20
"""That readers may hold at a time in a process: three clips of 480p81, or most of one of 704p121."""


def _page_locked(shape: torch.Size) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class LockedMemory:
    """Copies to the host into page-locked memory, of which readers hold no more than `most_bytes`.

    Into ordinary memory the driver copies piece by piece through a buffer of its own, and the system clears
    every page of it first: milliseconds a latent frame, in which the device has nothing to do. torch keeps
    what was locked once and gives it out again, so a slow reader must not be able to make it grow.

    Args:
        make: (shape of uint8) -> memory to copy into.
    """

    def __init__(
        self,
        most_bytes: int = MOST_LOCKED_BYTES,
        make: Callable[[torch.Size], Tensor] = _page_locked,
    ) -> None:
        self._most_bytes, self._make = most_bytes, make
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """With readers now."""
        return self._held_bytes

    def copy(self, pixels: Tensor) -> NDArray[np.uint8]:
        """uint8 of any shape on the host, when the device has made it; in ordinary memory where readers hold
        too much, or where no more can be locked."""
        num_bytes = pixels.nbytes
        if not self._take(num_bytes):
            return _ordinary(pixels)
        try:
            host = self._make(pixels.shape)
        except RuntimeError:  # the system lets nobody lock so much
            self._give_back(num_bytes)
            return _ordinary(pixels)
        frames: NDArray[np.uint8] = host.copy_(pixels).numpy()
        # Every view of the array keeps the array itself: a tensor is no base that numpy would look behind.
        weakref.finalize(frames, self._give_back, num_bytes)
        return frames

    def _take(self, num_bytes: int) -> bool:
        with self._lock:
            fits = self._held_bytes + num_bytes <= self._most_bytes
            self._held_bytes += num_bytes * fits
        return fits

    def _give_back(self, num_bytes: int) -> None:
        with self._lock:
            self._held_bytes -= num_bytes


def _ordinary(pixels: Tensor) -> NDArray[np.uint8]:
    frames: NDArray[np.uint8] = pixels.cpu().numpy()
    return frames


LOCKED = LockedMemory()
"""Of this process, as torch's pool of such memory is."""
