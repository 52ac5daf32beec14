"""How long a look-up takes among 100,000 entries, at 10 look-ups a second, with and without the embedding.

    python -m benchmarks.reuse_lookup                       # writes benchmarks/results/reuse_lookup.json
    python -m benchmarks.reuse_lookup --entries 5000 --lookups 20 --output /dev/null

Entries are vectors of generated prompts, mixed so that there are as many as wanted: they have the spectrum
of real prompts. Half of the look-ups are of prompts that are there in another order. Run it beside a
gateway to see what that costs. The exit status is 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from rushes.reuse.encoder import DIM, SentenceEncoder
from rushes.reuse.entries import Snapshot
from rushes.reuse.guard import gist
from rushes.reuse.index import VectorIndex
from rushes.reuse.latent_cache import THRESHOLD, Hit, LatentCache
from rushes.reuse.plain_index import Vectors
from rushes.reuse.store import REUSE_FILE, ReuseStore

OUTPUT = Path("benchmarks/results/reuse_lookup.json")
MOST_MS = 12.0
MOST_MS_EMBEDDED = 25.0

DOERS = (
    "dog",
    "woman",
    "robot",
    "fox",
    "sailor",
    "child",
    "dancer",
    "horse",
    "wizard",
    "truck",
    "owl",
    "chef",
)
DEEDS = ("crosses", "watches", "paints", "approaches", "circles", "lights", "photographs", "follows")
THINGS = ("bridge", "river", "lantern", "castle", "market", "forest", "statue", "train", "garden", "ship")
PLACES = (
    "at dawn",
    "in the rain",
    "under neon lights",
    "in deep snow",
    "on a summer evening",
    "in thick fog",
)


def prompts() -> list[str]:
    """All that the words above make, in a fixed random order."""
    parts = product(DOERS, DEEDS, THINGS, PLACES)
    found = [f"A {doer} {deed} a {thing} {place}" for doer, deed, thing, place in parts]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[number] for number in order]


def varied(prompt: str) -> str:
    """The same prompt with its place in front."""
    words = prompt.split(" ")
    place = words[5:]
    return " ".join((place[0].capitalize(), *place[1:])) + ", a " + " ".join(words[1:5])


def mixed(vectors: Vectors, count: int) -> Vectors:
    """`count` vectors of length 1: the given ones first, then sums of three of them."""
    random = np.random.default_rng(1)
    first, plus, minus = random.integers(0, len(vectors), (3, max(count - len(vectors), 0)))
    made = vectors[first] + 0.5 * (vectors[plus] - vectors[minus])
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return np.concatenate((vectors, made))[:count].astype(np.float32)


def fill(store: ReuseStore, vectors: Vectors, known: Sequence[str]) -> float:
    """Seconds an insert took."""
    start = time.perf_counter()
    for number, vector in enumerate(vectors):
        prompt = known[number] if number < len(known) else f"mixed {number}"
        store.insert(
            id=str(number),
            tenant="bench",
            compat="bench",
            prompt=prompt,
            gist=gist(prompt),
            vector=vector.tobytes(),
            snapshots=(Snapshot(name=f"{number}.latents", sigma=0.9, step=5, nbytes=1),),
            saved_s=1.0,
            now=time.time(),
        )
    return (time.perf_counter() - start) / max(len(vectors), 1)


def look_up(
    cache: LatentCache, encoder: SentenceEncoder, asked: Sequence[str], rate: float
) -> dict[str, Any]:
    """One look-up after another at `rate` a second."""
    alone, whole, own, hits = [], [], [], 0
    due = time.perf_counter()
    for prompt in asked:
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        (vector,) = encoder.encode([prompt])
        encoded, worked = time.perf_counter(), time.thread_time()
        found = cache.lookup(vector, "bench", prompt)
        end = time.perf_counter()
        own.append((time.thread_time() - worked) * 1e3)
        hits += isinstance(found, Hit)
        alone.append((end - encoded) * 1e3)
        whole.append((end - start) * 1e3)
    return {
        "lookups": len(asked),
        "hits": hits,
        "without embedding, ms": _percentiles(alone),
        "without embedding, processor ms": _percentiles(own),
        "with embedding, ms": _percentiles(whole),
    }


def recall(vectors: Vectors, queries: Vectors) -> float:
    """Share of queries whose nearest vector the index gives, as every dot product does."""
    index = VectorIndex(DIM)
    index.insert(range(len(vectors)), vectors)
    right = 0
    for query in queries:
        (found,) = index.nearest(query, at_least=-1.0, limit=1)
        # Of several vectors that are equally near to float32, any is the nearest.
        right += float(vectors[found.key] @ query) >= float((vectors @ query).max()) - 1e-6
    return right / len(queries)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 90, 99, 100)}


def measure(entries: int, lookups: int, rate: float, num_prompts: int) -> dict[str, Any]:
    """All figures."""
    encoder = SentenceEncoder()
    texts = prompts()[: num_prompts + lookups]
    known, others = texts[:num_prompts], texts[num_prompts:]
    vectors = mixed(encoder.encode(known), entries)
    known = known[:entries]
    asked = [varied(known[n % len(known)]) if n % 2 else others[n] for n in range(lookups)]
    with tempfile.TemporaryDirectory() as folder:
        insert_s = fill(ReuseStore(Path(folder) / REUSE_FILE), vectors, known)
        start = time.perf_counter()
        cache = LatentCache(ReuseStore(Path(folder) / REUSE_FILE))
        open_s = time.perf_counter() - start
        found = look_up(cache, encoder, asked, rate)
        cache.close()
    return {
        "entries": entries,
        "rate": rate,
        "threshold": THRESHOLD,
        **found,
        "recall@1": recall(vectors, encoder.encode(asked[:100])),
        "insert, ms": round(insert_s * 1e3, 3),
        "open, s": round(open_s, 2),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load average": round(os.getloadavg()[0], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--prompts", type=int, default=1500, help="that are really encoded")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    figures = measure(args.entries, args.lookups, args.rate, args.prompts)
    is_met = {
        "look-up": figures["without embedding, ms"]["p99"] <= MOST_MS,
        "look-up with embedding": figures["with embedding, ms"]["p99"] <= MOST_MS_EMBEDDED,
        "recall@1": figures["recall@1"] == 1,
    }
    figures["verdicts"] = is_met
    args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return 0 if all(is_met.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
