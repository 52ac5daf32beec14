"""Ids of jobs: unguessable, and sorted by creation whatever the clock does."""

from __future__ import annotations

import secrets

_TIME_DIGITS = 12


def next_job_id(last: str | None, now: float) -> str:
    """An id that sorts after `last`, the greatest so far: 48 bits of milliseconds, 80 random bits.

    The time moves on by a millisecond at least, so the order is strict also for equal times and for a clock
    that jumped back. It is an order, not a date.

    Example:
        >>> first = next_job_id(None, 1000.0)
        >>> len(first), first < next_job_id(first, 0.0)
        (32, True)
    """
    after_last = int(last[:_TIME_DIGITS], 16) + 1 if last else 0
    return f"{max(int(now * 1000), after_last):0{_TIME_DIGITS}x}{secrets.token_hex(10)}"
