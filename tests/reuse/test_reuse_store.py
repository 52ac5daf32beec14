"""The store of entries: bounds, policies, totals and how an index follows."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from cache_parts import snapshots, vector

from rushes.errors import StoreError, UnknownName
from rushes.reuse.eviction import POLICIES, Bounds
from rushes.reuse.store import ReuseStore


def insert(
    store: ReuseStore, id: str, *, tenant: str = "acme", now: float = 0.0, **given: float
) -> list[str]:
    _, gone = store.insert(
        id=id,
        tenant=tenant,
        compat="k",
        prompt=id,
        gist="",
        vector=vector().tobytes(),
        snapshots=snapshots(id, int(given.get("nbytes", 10)) // 2),
        saved_s=given.get("saved_s", 1.0),
        now=now,
    )
    return [entry.id for entry in gone]


def hit(store: ReuseStore, id: str, num: int = 1, *, now: float = 0.0) -> None:
    entry = store.get(id)
    assert entry is not None
    store.count_hits({entry.place: num}, now=now)


@pytest.mark.parametrize(("policy", "victim"), [("fifo", "a"), ("lru", "b"), ("lfu", "c"), ("cost", "d")])
def test_each_policy_has_its_own_victim(policy: str, victim: str) -> None:
    store = ReuseStore(":memory:", policy_name=policy, bounds=Bounds(max_entries=4))
    for now, (id, saved_s) in enumerate({"a": 9.0, "b": 9.0, "c": 50.0, "d": 0.1}.items()):
        insert(store, id, now=float(now), saved_s=saved_s)
    hit(store, "b", 3, now=10)
    hit(store, "a", 3, now=12)
    hit(store, "d", 2, now=13)
    hit(store, "c", 1, now=14)
    assert insert(store, "e", now=15.0) == [victim]
    store.close()


def test_what_is_used_stays_before_something_new_of_twice_its_cost() -> None:
    store = ReuseStore(":memory:", policy_name="cost", bounds=Bounds(max_entries=2))
    insert(store, "used", now=0.0, saved_s=10.0)
    insert(store, "new", now=1.0, saved_s=20.0)
    hit(store, "used", now=2.0)
    assert insert(store, "next", now=3.0, saved_s=10.0) == ["new"]
    store.close()


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(UnknownName, match="lru"):
        ReuseStore(":memory:", policy_name="lrru")


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_bounds_hold_at_every_moment_for_all_and_for_each_tenant(policy: str) -> None:
    bounds = Bounds(max_entries=60, max_bytes=3000, tenant_entries=25, tenant_bytes=1500)
    store = ReuseStore(":memory:", policy_name=policy, bounds=bounds)
    random = np.random.default_rng()
    for number in range(400):
        insert(
            store,
            str(number),
            tenant=str(random.integers(0, 4)),
            now=float(number),
            nbytes=float(random.integers(2, 200)),
        )
        totals = store.totals()
        assert sum(total.num_entries for total in totals) <= 60
        assert sum(total.nbytes for total in totals) <= 3000
        assert all(total.num_entries <= 25 and total.nbytes <= 1500 for total in totals)
        assert store.get(str(number)) is not None, "what is new is not the first to go"
    assert sum(total.num_entries for total in store.totals()) == len(list(store.vectors()))
    store.close()


def test_pinned_entries_stay_and_count() -> None:
    store = ReuseStore(":memory:", policy_name="fifo", bounds=Bounds(max_entries=3))
    for id in "abc":
        insert(store, id)
    store.pin("a")
    insert(store, "d")
    insert(store, "e")
    assert store.get("a") is not None
    store.pin("a", is_pinned=False)
    insert(store, "f")
    insert(store, "g")
    assert store.get("a") is None
    store.close()


def test_one_tenant_cannot_push_out_another() -> None:
    store = ReuseStore(":memory:", bounds=Bounds(tenant_entries=10))
    insert(store, "theirs", tenant="other")
    for number in range(50):
        insert(store, str(number))
    assert store.get("theirs") is not None
    store.close()


def test_levels_of_one_file_do_not_see_each_other(tmp_path: Path) -> None:
    latent = ReuseStore(tmp_path / "reuse.sqlite", bounds=Bounds(max_entries=2))
    exact = ReuseStore(
        tmp_path / "reuse.sqlite", level="exact", policy_name="lru", bounds=Bounds(max_entries=9)
    )
    insert(latent, "a")
    for number in range(9):
        insert(exact, str(number))
    insert(exact, "a")
    assert latent.get("a") is not None
    assert [total.num_entries for total in latent.totals()] == [1]
    latent.close()
    exact.close()


def test_a_changed_policy_scores_what_is_there_again(tmp_path: Path) -> None:
    store = ReuseStore(tmp_path / "reuse.sqlite", policy_name="fifo", bounds=Bounds(max_entries=2))
    insert(store, "old", now=1.0)
    insert(store, "new", now=2.0)
    hit(store, "old", 5, now=3.0)
    store.close()
    store = ReuseStore(tmp_path / "reuse.sqlite", policy_name="lfu", bounds=Bounds(max_entries=2))
    insert(store, "third", now=4.0)
    assert store.get("old") is not None
    assert store.get("new") is None
    store.close()


def test_what_was_worth_much_long_ago_makes_room_in_the_end() -> None:
    store = ReuseStore(":memory:", policy_name="cost", bounds=Bounds(max_entries=10))
    insert(store, "once hot")
    hit(store, "once hot", 20)
    for number in range(600):
        insert(store, str(number))
        hit(store, str(number))
    assert store.get("once hot") is None
    store.close()


def test_an_index_that_is_far_behind_reads_everything() -> None:
    store = ReuseStore(":memory:", kept_changes=5)
    insert(store, "a")
    number = store.news(0).number
    insert(store, "b")
    assert store.news(number).changed == (2,)
    assert store.news(store.news(number).number).changed == ()
    for id in "cdefghij":
        insert(store, id)
    assert store.news(number).changed is None
    store.close()


def test_the_file_does_not_grow_under_inserts_and_evictions(tmp_path: Path) -> None:
    path = tmp_path / "reuse.sqlite"
    store = ReuseStore(path, bounds=Bounds(max_entries=100))
    sizes = []
    for number in range(3000):
        insert(store, str(number), now=time.time())
        if number % 500 == 499:
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert sizes[-1] <= sizes[1] + 5 * 2**20
    store.close()
    assert path.stat().st_size < 3 * 2**20


def test_another_program_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "reuse.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 10)
    with pytest.raises(StoreError, match=r"reuse\.sqlite"):
        ReuseStore(path)
    assert path.read_bytes().startswith(b"no database")
