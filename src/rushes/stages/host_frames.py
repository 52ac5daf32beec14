"""Decoded frames on their way to the host, which may let the device go on before they arrive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_LOCKED_BYTES = 256 * 2**20
"""That readers may hold at a time in a process, as torch rounds it up: a clip of 480p81 and a half."""


def _page_locked(shape: torch.Size) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class Arrival:
    """Frames that the host may ask for before they are there.

    Args:
        pixels: uint8 on their device.
        frames: where they are being copied to; None for a copy when they are asked for.
        copied: set behind that copy, None where there is nothing to wait for.
    """

    def __init__(
        self, pixels: Tensor, frames: NDArray[np.uint8] | None, copied: torch.cuda.Event | None
    ) -> None:
        self._pixels, self._frames, self._copied = pixels, frames, copied

    @property
    def is_on_its_way(self) -> bool:
        """The host need not ask for the copy, behind whatever else the device was given."""
        return self._frames is not None

    def wait(self) -> NDArray[np.uint8]:
        """The frames, when the device has made them."""
        if self._frames is None:
            frames: NDArray[np.uint8] = self._pixels.cpu().numpy()
            return frames
        if self._copied is not None:
            self._copied.synchronize()
        return self._frames


class LockedMemory:
    """Copies to the host into page-locked memory, of which readers hold no more than `most_bytes`.

    Into ordinary memory the driver copies piece by piece through a buffer of its own, the system clears every
    page of it first, and the host waits: milliseconds a latent frame, in which the device has nothing to do.
    torch keeps what was locked once and gives it out again, so no slow reader must be able to make it grow.

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
        self._lock = threading.RLock()  # a finalizer may run wherever memory is asked for

    @property
    def held_bytes(self) -> int:
        """With readers now."""
        return self._held_bytes

    def send(self, pixels: Tensor) -> Arrival:
        """Queue the copy of uint8 of any shape. Where readers hold too much, or no more can be locked, the
        host copies for itself when it asks, behind whatever the stream was given meanwhile."""
        num_bytes = 1 << (pixels.nbytes - 1).bit_length()  # as torch takes it
        if not self._take(num_bytes):
            return Arrival(pixels, None, None)
        try:
            host = self._make(pixels.shape)
        except RuntimeError:  # the system lets nobody lock so much
            self._give_back(num_bytes)
            return Arrival(pixels, None, None)
        frames: NDArray[np.uint8] = host.copy_(pixels, non_blocking=True).numpy()
        # Every view of the array keeps the array itself: a tensor is no base that numpy would look behind.
        weakref.finalize(frames, self._give_back, num_bytes)
        copied = None
        if pixels.is_cuda:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(pixels.device))  # which need not be the current device
        return Arrival(pixels, frames, copied)

    def _take(self, num_bytes: int) -> bool:
        with self._lock:
            fits = self._held_bytes + num_bytes <= self._most_bytes
            self._held_bytes += num_bytes * fits
        return fits

    def _give_back(self, num_bytes: int) -> None:
        with self._lock:
            self._held_bytes -= num_bytes


LOCKED = LockedMemory()
"""Of this process, as torch's pool of such memory is."""


def send(pixels: Tensor) -> Arrival:
    """Begin to bring uint8 of any shape and device to the host."""
    return LOCKED.send(pixels) if pixels.is_cuda else Arrival(pixels, pixels.cpu().numpy(), None)
