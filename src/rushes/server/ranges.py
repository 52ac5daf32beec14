"""`Range` and `If-None-Match` of HTTP (RFC 9110, sections 14.2 and 13.1.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_RANGES = 100
_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})")
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def ranges_of(text: str, size: int) -> Sequence[tuple[int, int]] | None:
    """The parts of `size` bytes that a `Range` header asks for, as first and last byte: empty where all lie
    behind the end, None for a header that is to be ignored.

    Example:
        >>> ranges_of("bytes=0-9, 90-, -5", 100)
        [(0, 9), (90, 99), (95, 99)]
        >>> ranges_of("bytes=100-", 100), ranges_of("bytes=5-1", 100), ranges_of("pages=1-2", 100)
        ([], None, None)
    """
    unit, _, listed = text.partition("=")
    parts = [_RANGE.fullmatch(part.strip()) for part in listed.split(",", MOST_RANGES)]
    if unit.strip().lower() != "bytes" or len(parts) > MOST_RANGES:
        return None
    found = []
    for part in parts:
        if part is None or not (part[1] or part[2]):
            return None
        if not part[1]:
            first, last = max(0, size - int(part[2])), size - 1
        else:
            first, last = int(part[1]), min(int(part[2] or size), size - 1)
            if part[2] and int(part[2]) < first:
                return None
        if first <= last:
            found.append((first, last))
    return found


def is_known(etag: str, if_none_match: str) -> bool:
    """Whether an `If-None-Match` header names this tag.

    Example:
        >>> is_known("a", '"b", W/"a"'), is_known("a", '"ab"'), is_known("a", "*")
        (True, False, True)
    """
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)
