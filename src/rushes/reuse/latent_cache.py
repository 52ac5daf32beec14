"""Clips whose stored latents a new prompt may start from: nearest by meaning, and not another meaning."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from rushes.errors import StoreError
from rushes.reuse.encoder import DIM
from rushes.reuse.entries import Entry, Snapshot
from rushes.reuse.guard import differs, gist
from rushes.reuse.index import VectorIndex
from rushes.reuse.plain_index import Neighbour, Vectors
from rushes.reuse.store import ReuseStore, entry_of

THRESHOLD = 0.92
"""Cosine of MiniLM's embeddings: reordered and inflected prompts are above it, and so are prompts of the
opposite meaning, which is why there is a guard (docs/reuse.md)."""

REFRESH_S = 0.25
"""How old the view of other processes' entries may be."""

_MAX_CANDIDATES = 256
"""The nearest whose gists are looked at: a template may have as many variants that are near."""

_MAX_COMPARED = 16
"""Of those with the prompt's gist, which the guard reads: that is where a look-up's time goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An entry that means the same.

    Attributes:
        similarity: cosine of the two prompts' embeddings.
    """

    entry: Entry
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Nothing may be used.

    Attributes:
        reason: "empty", "similarity", "guard: ..." with what differs, "gone" where the nearest was removed or
            is damaged, or "store: ..." when it cannot be read.
        similarity: of the nearest that was above the threshold; None when none was.
    """

    reason: str
    similarity: float | None = None


@dataclass(slots=True, kw_only=True)
class Counts:
    """Since the cache was opened, by this process.

    Attributes:
        misses: by the first word of the reason.
        num_corrupt: rows that could not be used.
        num_errors: times the store could not be read or written; each made a miss at most.
    """

    hits: int
    misses: Counter[str]
    num_corrupt: int
    num_errors: int


class LatentCache:
    """Look up by embedding, then by meaning. Safe for threads; each process has its own over one store.

    Other processes' entries are seen within `REFRESH_S`. Hits are written with the next insert, `evict` or
    `close`, so that no look-up waits for a writer; a process that is killed forgets those since.

    Args:
        store: what holds the entries; the cache closes it.
        differs: why two prompts do not mean the same; None when they do.
        gist: of a prompt: those of two gists differ, and are not compared.
        on_evicted: called with entries that went, after they went, so that their files can be deleted.
            Whoever still reads one of those has a miss.
        clock: seconds since the epoch.

    Raises:
        StoreError: from the constructor, `insert`, `pin`, `remove` and `evict`; `lookup` never raises it.
    """

    def __init__(
        self,
        store: ReuseStore,
        *,
        differs: Callable[[str, str], str | None] = differs,
        gist: Callable[[str], str] = gist,
        on_evicted: Callable[[Sequence[Entry]], None] = lambda entries: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._differs, self._gist = store, differs, gist
        self._on_evicted, self._clock = on_evicted, clock
        self._lock = threading.Lock()
        self._indexes: dict[str, VectorIndex] = {}
        self._compat_of: dict[int, str] = {}
        self._gist_of: dict[int, int] = {}  # hashed; most of what is near is of another, and is not read
        self._hits: Counter[int] = Counter()
        self._number, self._refreshed_at = -1, -REFRESH_S
        self.counts = Counts(hits=0, misses=Counter(), num_corrupt=0, num_errors=0)
        self._gist("")  # reads the word lists, which the first look-up would wait for
        with self._lock:
            self._read_news()

    def __len__(self) -> int:
        return len(self._compat_of)

    def close(self) -> None:
        """Write what was counted and close the store."""
        with suppress(StoreError):
            self._write_hits()
        self._store.close()

    def lookup(
        self, embedding: Vectors, compat: str, prompt: str, threshold: float = THRESHOLD
    ) -> Hit | Miss:
        """The nearest entry of this compatibility key that is near enough and means the same.

        Args:
            embedding: float32 [384] of length 1, of `prompt`.
            prompt: cleaned, as those that were inserted.
        """
        try:
            found = self._lookup(embedding, compat, prompt, threshold)
        except StoreError as error:
            self.counts.num_errors += 1
            found = Miss(reason=f"store: {error}")
        if isinstance(found, Hit):
            self.counts.hits += 1
        else:
            self.counts.misses[found.reason.partition(":")[0]] += 1
        return found

    def insert(
        self,
        embedding: Vectors,
        compat: str,
        prompt: str,
        *,
        id: str,
        tenant: str,
        snapshots: Sequence[Snapshot],
        saved_s: float,
    ) -> None:
        """Add a clip, or replace the one of this id; evict what has no room beside it.

        Args:
            saved_s: device seconds that a hit is taken to save: what the clip took, in doubt.
        """
        self._write_hits()
        vector = np.ascontiguousarray(embedding, np.float32)
        assert vector.shape == (DIM,), vector.shape
        _, gone = self._store.insert(
            id=id,
            tenant=tenant,
            compat=compat,
            prompt=prompt,
            gist=self._gist(prompt),
            vector=vector.tobytes(),
            snapshots=snapshots,
            saved_s=saved_s,
            now=self._clock(),
        )
        with self._lock:
            self._read_news()
        self._tell(gone)

    def pin(self, id: str, *, is_pinned: bool = True) -> bool:
        """Keep an entry whatever happens, or no longer; False when there is none of this id."""
        return self._store.pin(id, is_pinned=is_pinned)

    def remove(self, id: str) -> bool:
        """Take out an entry whose snapshots turned out to be unusable; whether it was there."""
        entry = self._store.remove(id)
        with self._lock:
            self._read_news()
        self._tell(() if entry is None else (entry,))
        return entry is not None

    def ids(self) -> frozenset[str]:
        """Of every entry, as the store has them now."""
        return self._store.ids()

    def has(self, id: str) -> bool:
        """Whether there is an entry of this id, damaged or not."""
        try:
            return self._store.get(id) is not None
        except StoreError:
            return True

    def evict(self) -> Sequence[Entry]:
        """Take out what has had its time or no more room. To be called every few seconds: it writes hits."""
        self._write_hits()
        gone = self._store.evict(now=self._clock())
        with self._lock:
            self._read_news()
        self._tell(gone)
        return gone

    def _lookup(self, embedding: Vectors, compat: str, prompt: str, threshold: float) -> Hit | Miss:
        with self._lock:
            self._refresh()
            index = self._indexes.get(compat)
            if index is None:
                return Miss(reason="empty")
            near = index.nearest(embedding, at_least=threshold, limit=_MAX_CANDIDATES)
        if not near:
            return Miss(reason="similarity")
        own = self._gist(prompt)
        with self._lock:
            alike = [one for one in near if self._gist_of.get(one.key) == hash(own)]
        rows = self._store.rows([one.key for one in alike], gist=own) if alike else {}
        live = [one for one in alike if one.key in rows and self._is_live(rows[one.key], compat)]
        found = self._first_alike(live, rows, prompt)
        return found or Miss(reason=self._why_unlike(near[0], prompt), similarity=near[0].similarity)

    def _first_alike(
        self, live: Sequence[Neighbour], rows: Mapping[int, sqlite3.Row], prompt: str
    ) -> Hit | None:
        for one in live[:_MAX_COMPARED]:
            row = rows[one.key]
            if self._differs(prompt, row["prompt"]):
                continue
            try:
                entry = entry_of(row)
            except StoreError:
                self.counts.num_corrupt += 1
                continue
            with self._lock:
                self._hits[one.key] += 1
            return Hit(entry=entry, similarity=one.similarity)
        return None

    def _is_live(self, row: sqlite3.Row, compat: str) -> bool:
        is_over = row["expires_at"] is not None and row["expires_at"] <= self._clock()
        return row["compat"] == compat and (bool(row["is_pinned"]) or not is_over)

    def _why_unlike(self, nearest: Neighbour, prompt: str) -> str:
        """What the guard says of the nearest; "gone" where that had its time, was removed or is damaged."""
        row = self._store.rows([nearest.key]).get(nearest.key)
        difference = None if row is None else self._differs(prompt, row["prompt"])
        return f"guard: {difference}" if difference else "gone"

    def _refresh(self) -> None:
        if abs(time.monotonic() - self._refreshed_at) >= REFRESH_S:
            self._read_news()

    def _write_hits(self) -> None:
        with self._lock:
            hits, self._hits = self._hits, Counter()
        if hits:
            self._store.count_hits(hits, now=self._clock())

    def _read_news(self) -> None:
        news = self._store.news(self._number)
        if news.changed is None or self._number < 0:
            self._indexes.clear()
            self._compat_of.clear()
            self._gist_of.clear()
            self._add(None)
        elif news.changed:
            for place in news.changed:
                self._forget(place)
            self._add(news.changed)
        self._number, self._refreshed_at = news.number, time.monotonic()

    def _forget(self, place: int) -> None:
        self._gist_of.pop(place, None)
        compat = self._compat_of.pop(place, None)
        if compat is not None:
            index = self._indexes[compat]
            index.remove(place)
            if not len(index):
                del self._indexes[compat]

    def _add(self, places: Sequence[int] | None) -> None:
        by_compat: dict[str, list[tuple[int, Vectors]]] = {}
        for place, compat, its_gist, data in self._store.vectors(places):
            vector = _vector(data)
            if vector is None:
                self.counts.num_corrupt += 1
            else:
                by_compat.setdefault(compat, []).append((place, vector))
                self._gist_of[place] = hash(its_gist)
        for compat, found in by_compat.items():
            index = self._indexes.setdefault(compat, VectorIndex(DIM))
            index.insert([place for place, _ in found], np.stack([vector for _, vector in found]))
            self._compat_of.update((place, compat) for place, _ in found)

    def _tell(self, gone: Sequence[Entry]) -> None:
        if gone:
            self._on_evicted(gone)


def _vector(data: bytes) -> Vectors | None:
    """None for bytes that are no vector of length 1."""
    if not isinstance(data, bytes) or len(data) != 4 * DIM:
        return None
    vector = np.frombuffer(data, np.float32)
    length = float(np.linalg.norm(vector))
    return vector if np.isfinite(vector).all() and abs(length - 1) < 1e-2 else None
