"""The cache of latents: what it gives, what it refuses and why, and what survives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cache_parts import add, snapshots, vector

from rushes.errors import StoreError
from rushes.reuse.entries import Entry
from rushes.reuse.eviction import Bounds
from rushes.reuse.latent_cache import REFRESH_S, Hit, LatentCache, Miss
from rushes.reuse.store import ReuseStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reuse.sqlite"


def hit_id(found: Hit | Miss) -> str:
    assert isinstance(found, Hit), found
    return found.entry.id


def test_the_nearest_of_the_same_meaning_is_a_hit(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "far", "a dog runs", at=vector(0.3))
    add(cache, "near but other", "a dog runs left", at=vector(0.05))
    add(cache, "near", "A dog running", at=vector(0.1))
    found = cache.lookup(vector(), "k", "a dog runs")
    assert hit_id(found) == "near"
    assert isinstance(found, Hit)
    assert found.similarity == pytest.approx(np.cos(0.1), abs=1e-6)
    assert [one.sigma for one in found.entry.snapshots] == [0.9, 0.7]
    assert (cache.counts.hits, dict(cache.counts.misses)) == (1, {})
    cache.close()


def test_the_guard_reads_a_few_only(path: Path) -> None:
    read: list[str] = []

    def refuse(one: str, other: str) -> str:
        read.append(other)
        return "order: other"

    cache = LatentCache(ReuseStore(path), differs=refuse, gist=lambda prompt: "same")
    for number in range(40):
        add(cache, str(number), f"dog {number}", at=vector(0.001 * number))
    assert isinstance(cache.lookup(vector(), "k", "a dog runs"), Miss)
    assert read == [*(f"dog {number}" for number in range(16)), "dog 0"]
    cache.close()


def test_a_miss_says_why(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    assert cache.lookup(vector(), "k", "a dog runs") == Miss(reason="empty")
    add(cache, "one", "a dog runs left", at=vector(0.05))
    assert cache.lookup(vector(axis=1), "k", "a dog runs") == Miss(reason="similarity")
    found = cache.lookup(vector(), "k", "a dog runs right")
    assert isinstance(found, Miss)
    assert found.reason == "guard: direction: 'right' is not 'left'"
    assert found.similarity == pytest.approx(np.cos(0.05), abs=1e-6)
    assert cache.lookup(vector(), "other key", "a dog runs left") == Miss(reason="empty")
    assert dict(cache.counts.misses) == {"empty": 2, "similarity": 1, "guard": 1}
    cache.close()


def test_the_threshold_is_the_callers(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "one", at=vector(0.5))
    assert isinstance(cache.lookup(vector(), "k", "a dog runs"), Miss)
    assert hit_id(cache.lookup(vector(), "k", "a dog runs", 0.8)) == "one"
    cache.close()


def test_everything_survives_a_restart_and_a_rebuilt_index_finds_the_same(path: Path) -> None:
    random = np.random.default_rng()
    cache = LatentCache(ReuseStore(path, bounds=Bounds(max_entries=900)))
    vectors = random.normal(size=(1500, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, one in enumerate(vectors):
        add(cache, str(number), f"thing {number}", at=one, compat=f"k{number % 3}")
        if number % 7 == 0:
            cache.remove(str(random.integers(0, number + 1)))
    again = LatentCache(ReuseStore(path))
    assert len(again) == len(cache) <= 900
    for number in range(0, 1500, 5):
        query = (f"k{number % 3}", f"thing {number}")
        mine, theirs = (one.lookup(vectors[number], *query) for one in (cache, again))
        assert type(mine) is type(theirs)
        if isinstance(mine, Hit) and isinstance(theirs, Hit):
            assert mine.entry.id == theirs.entry.id == str(number)
    cache.close()
    again.close()


def test_hits_are_counted_in_the_store(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "one")
    for _ in range(3):
        cache.lookup(vector(), "k", "a dog runs")
    cache.close()
    store = ReuseStore(path)
    entry = store.get("one")
    assert entry is not None
    assert entry.hits == 3
    store.close()


def test_another_process_is_seen_within_a_second(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "ours")
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from cache_parts import add, vector
        from rushes.reuse.latent_cache import LatentCache
        from rushes.reuse.store import ReuseStore
        cache = LatentCache(ReuseStore({str(path)!r}))
        assert cache.lookup(vector(), "k", "a dog runs").entry.id == "ours"
        add(cache, "theirs", "a cat sleeps", at=vector(axis=3))
        cache.remove("ours")
        cache.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)
    time.sleep(REFRESH_S)
    assert hit_id(cache.lookup(vector(axis=3), "k", "a cat sleeps")) == "theirs"
    assert isinstance(cache.lookup(vector(), "k", "a dog runs"), Miss)
    cache.close()


def test_an_entry_removed_elsewhere_is_no_hit_even_before_the_index_hears_of_it(path: Path) -> None:
    cache, other = LatentCache(ReuseStore(path)), LatentCache(ReuseStore(path))
    add(cache, "second best", at=vector(0.1))
    add(cache, "best")
    cache.lookup(vector(), "k", "a dog runs")
    other.remove("best")
    assert hit_id(cache.lookup(vector(), "k", "a dog runs")) == "second best"
    cache.close()
    other.close()


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE vectors SET vector = ?", b"short"),
        ("UPDATE vectors SET vector = ?", np.full(384, np.nan, np.float32).tobytes()),
        ("UPDATE vectors SET vector = ?", np.zeros(384, np.float32).tobytes()),
        ("UPDATE vectors SET vector = ?", "text"),
        ("UPDATE entries SET snapshots = ?", '[{"name": "x"}]'),
        ("UPDATE entries SET snapshots = ?", "{"),
        ("UPDATE entries SET snapshots = ?", "null"),
        ("UPDATE entries SET snapshots = ?", '[{"name": "x", "sigma": 7, "step": 1, "nbytes": 1}]'),
        ("UPDATE entries SET snapshots = ?", '[{"name": "x", "sigma": "a", "step": 1, "nbytes": 1}]'),
    ],
)
def test_a_damaged_row_is_a_miss(path: Path, statement: str, value: object) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "one")
    cache.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, (value,))
    connection.close()
    cache = LatentCache(ReuseStore(path))
    assert isinstance(cache.lookup(vector(), "k", "a dog runs"), Miss)
    assert cache.counts.num_corrupt == 1
    add(cache, "one")
    assert hit_id(cache.lookup(vector(), "k", "a dog runs")) == "one"
    assert cache.remove("one")
    cache.close()


def test_a_store_that_cannot_be_read_is_a_miss(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "one")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TABLE entries")
    connection.close()
    found = cache.lookup(vector(), "k", "a dog runs")
    assert isinstance(found, Miss)
    assert found.reason.startswith("store: ")
    assert cache.counts.num_errors >= 1
    with pytest.raises(StoreError, match="entries"):
        add(cache, "two")
    cache.close()


def test_what_is_evicted_is_told_with_its_files_after_it_is_gone(path: Path) -> None:
    told: list[Entry] = []
    cache = LatentCache(
        ReuseStore(path, policy_name="fifo", bounds=Bounds(max_entries=2)), on_evicted=told.extend
    )
    for number in range(4):
        add(cache, str(number), f"thing {number}", at=vector(axis=number))
    assert [entry.id for entry in told] == ["0", "1"]
    assert {one.name for one in told[0].snapshots} == {"0.1.latents", "0.2.latents"}
    assert isinstance(cache.lookup(vector(axis=0), "k", "thing 0"), Miss)
    assert hit_id(cache.lookup(vector(axis=3), "k", "thing 3")) == "3"
    cache.close()


def test_time_runs_out_for_all_but_the_pinned(path: Path) -> None:
    now = [1000.0]
    cache = LatentCache(ReuseStore(path, bounds=Bounds(ttl_s=60)), clock=lambda: now[0])
    add(cache, "pinned", "a cat sleeps", at=vector(axis=1))
    add(cache, "plain")
    assert cache.pin("pinned")
    assert not cache.pin("unknown")
    now[0] += 61
    assert isinstance(cache.lookup(vector(), "k", "a dog runs"), Miss)
    assert hit_id(cache.lookup(vector(axis=1), "k", "a cat sleeps")) == "pinned"
    assert [entry.id for entry in cache.evict()] == ["plain"]
    now[0] -= 1_000_000  # a clock that was set back
    assert hit_id(cache.lookup(vector(axis=1), "k", "a cat sleeps")) == "pinned"
    cache.close()


def test_replacing_an_entry_gives_up_only_files_that_are_not_named_again(path: Path) -> None:
    told: list[Entry] = []
    cache = LatentCache(ReuseStore(path), on_evicted=told.extend)
    add(cache, "one")
    add(cache, "one", at=vector(axis=2))
    assert told == []
    cache.insert(
        vector(axis=2), "k", "a dog runs", id="one", tenant="acme", snapshots=snapshots("one")[:1], saved_s=1
    )
    assert [[one.name for one in entry.snapshots] for entry in told] == [["one.1.latents"]]
    assert len(cache) == 1
    cache.close()


def test_two_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    ReuseStore(path).close()
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from cache_parts import add, vector
        from rushes.reuse.latent_cache import LatentCache
        from rushes.reuse.store import ReuseStore
        cache = LatentCache(ReuseStore({str(path)!r}))
        for number in range(60):
            add(cache, f"{{sys.argv[1]}}{{number}}", f"thing {{number}}", at=vector(axis=number))
        cache.close()
    """
    running = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    store = ReuseStore(path)
    assert [(total.num_entries, total.nbytes) for total in store.totals()] == [(120, 2400)]
    assert len(list(store.vectors())) == 120
    store.close()


def test_threads_may_use_one_cache(path: Path) -> None:
    cache = LatentCache(ReuseStore(path, bounds=Bounds(max_entries=40)))
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(30):
                add(cache, f"{name}.{number}", f"thing {name}", at=vector(axis=name))
                found = cache.lookup(vector(axis=name), "k", f"thing {name}")
                assert isinstance(found, Hit), found
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(cache) <= 40
    assert cache.counts.num_errors == 0
    cache.close()


def test_the_right_variant_of_a_template_is_found_behind_many_nearer_ones(path: Path) -> None:
    cache = LatentCache(ReuseStore(path))
    add(cache, "right", "a shoe on a red table", at=vector(0.3))
    for number in range(150):
        add(cache, str(number), f"a shoe on table {number}", at=vector(0.001 * number))
    assert hit_id(cache.lookup(vector(), "k", "A shoe on the red table")) == "right"
    cache.close()
