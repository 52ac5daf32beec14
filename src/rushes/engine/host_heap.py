"""The C library's heap of this process.

glibc gives every new thread an arena of its own, up to eight for each core, and keeps what the thread has
freed there. A worker has several threads for every clip: after some hundred clips it holds 60 MB that nobody
uses, and looks as if it leaked. Elsewhere than under glibc nothing here does anything.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

NUM_ARENAS = 2
_M_ARENA_MAX = -8  # of glibc's malloc.h


def limit_arenas(num: int = NUM_ARENAS) -> bool:
    """Let threads share so many arenas from now on; whether that was possible. What allocates for long, the
    tensors' memory, is not affected."""
    mallopt = _function("mallopt")
    return mallopt is not None and mallopt(_M_ARENA_MAX, num) == 1


def give_back() -> bool:
    """Return memory that was freed to the system; whether there was any. A few milliseconds."""
    trim = _function("malloc_trim")
    return trim is not None and trim(0) == 1


def _function(name: str) -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    return found
