"""What a cache of latents holds: a clip that was made, and the noise levels at which it can be taken up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rushes.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One file of stored latents.

    Attributes:
        name: of the file, where the worker put it.
        sigma: noise level of its latents, 0..1.
        step: solver steps that were done.
        nbytes: of the file.
    """

    name: str
    sigma: float
    step: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One clip. Times are seconds since the epoch.

    Attributes:
        place: its number in the store, never given twice.
        id: what its maker calls it: the job's id.
        compat: `rushes.reuse.keys.compatibility_key`.
        prompt: as it was cleaned.
        snapshots: by falling sigma.
        saved_s: device seconds that one hit is taken to save.
    """

    place: int
    id: str
    tenant: str
    compat: str
    prompt: str
    snapshots: tuple[Snapshot, ...]
    nbytes: int
    saved_s: float
    created_at: float
    used_at: float
    expires_at: float | None
    hits: int
    is_pinned: bool


def snapshots_to_json(snapshots: Sequence[Snapshot]) -> str:
    """By falling sigma."""
    return json.dumps([asdict(one) for one in sorted(snapshots, key=lambda one: -one.sigma)])


def snapshots_from_json(text: str) -> tuple[Snapshot, ...]:
    """The inverse of `snapshots_to_json`. Raises `StoreError` for a row that is damaged."""
    try:
        found = tuple(Snapshot(**one) for one in json.loads(text))
        if not all(0 <= one.sigma <= 1 and one.nbytes >= 0 and one.name for one in found):
            raise ValueError("a value is out of range")
    except (ValueError, TypeError) as error:
        raise StoreError(f"an entry's snapshots cannot be read: {error}") from error
    return found
