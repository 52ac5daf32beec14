"""Messages to webhooks: one try at a time, by one gateway, whatever the clock does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from store_parts import Clock, child, outputs_of

from rushes.stores.accounts import AccountStore
from rushes.stores.deliveries import Deliveries, Delivery

CLAIM = """
import sys
from rushes.stores.accounts import AccountStore
accounts = AccountStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    for delivery in accounts.deliveries.claim(limit=3, now=1e6, lease_s=30, longest_wait_s=100):
        accounts.deliveries.delivered(delivery, now=1e6)
        print(delivery.job_id)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    yield accounts
    accounts.close()


@pytest.fixture
def deliveries(accounts: AccountStore) -> Deliveries:
    return accounts.deliveries


def new_key(accounts: AccountStore) -> str:
    return accounts.keys.create("a", webhook_url="https://example.com/hook")[0].id


def claim(deliveries: Deliveries, clock: Clock, limit: int = 9) -> Sequence[Delivery]:
    return deliveries.claim(limit=limit, now=clock(), lease_s=30.0, longest_wait_s=100.0)


def test_a_message_is_added_once(accounts: AccountStore, deliveries: Deliveries, clock: Clock) -> None:
    key_id = new_key(accounts)
    added = [deliveries.add("job", key_id=key_id, body=body, now=clock()) for body in ("{}", "[]")]
    assert added == [True, False]
    (delivery,) = claim(deliveries, clock)
    assert (delivery.body, delivery.num_tries, delivery.webhook.url) == ("{}", 0, "https://example.com/hook")
    deliveries.delivered(delivery, now=clock())
    assert not deliveries.add("job", key_id=key_id, body="{}", now=clock())
    clock.now += 1000
    assert claim(deliveries, clock) == ()
    assert (deliveries.count(is_open=True), deliveries.count(is_open=False)) == (0, 1)


@pytest.mark.parametrize("end", ["delivered", "given_up"])
def test_what_was_told_is_not_kept(tmp_path: Path, clock: Clock, end: str) -> None:
    accounts = AccountStore(tmp_path / "told.sqlite")
    accounts.deliveries.add("job", key_id=new_key(accounts), body="a secret dog", now=clock())
    (delivery,) = claim(accounts.deliveries, clock)
    if end == "delivered":
        accounts.deliveries.delivered(delivery, now=clock())
    else:
        accounts.deliveries.given_up(delivery, "answered 410", now=clock())
    accounts.close()
    with closing(sqlite3.connect(tmp_path / "told.sqlite")) as other:
        assert other.execute("SELECT body FROM deliveries").fetchall() == [("",)]


def test_one_of_a_key_at_a_time_oldest_first(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock
) -> None:
    keys = [new_key(accounts), new_key(accounts)]
    for i in range(6):
        deliveries.add(f"job {i}", key_id=keys[i % 2], body="{}", now=clock() + i / 10)
    clock.now += 1
    first = claim(deliveries, clock)
    assert [delivery.job_id for delivery in first] == ["job 0", "job 1"]
    assert claim(deliveries, clock) == ()
    deliveries.delivered(first[1], now=clock())
    assert [delivery.job_id for delivery in claim(deliveries, clock)] == ["job 3"]
    clock.now += 31
    assert [delivery.job_id for delivery in claim(deliveries, clock, limit=1)] == ["job 0"], "its holder died"


def test_a_failed_try_comes_again_with_its_id(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock
) -> None:
    deliveries.add("job", key_id=new_key(accounts), body="{}", now=clock())
    (first,) = claim(deliveries, clock)
    deliveries.failed(first, "answered 500", next_at=clock() + 60)
    assert claim(deliveries, clock) == ()
    clock.now += 60
    (second,) = claim(deliveries, clock)
    assert (second.id, second.num_tries) == (first.id, 1)
    deliveries.given_up(second, "answered 500", now=clock())
    assert deliveries.count(is_open=True) == 0


def test_whoever_lost_the_lease_changes_nothing(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock
) -> None:
    deliveries.add("job", key_id=new_key(accounts), body="{}", now=clock())
    (slow,) = claim(deliveries, clock)
    clock.now += 31
    (quick,) = claim(deliveries, clock)
    deliveries.given_up(slow, "late", now=clock())
    assert deliveries.count(is_open=True) == 1
    deliveries.delivered(quick, now=clock())
    assert deliveries.count(is_open=True) == 0


@pytest.mark.parametrize("jump_s", [1e6, -1e6])
@pytest.mark.parametrize("is_leased", [False, True])
def test_a_clock_that_jumps_holds_no_message_back(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock, jump_s: float, is_leased: bool
) -> None:
    deliveries.add("job", key_id=new_key(accounts), body="{}", now=clock())
    if is_leased:
        assert claim(deliveries, clock)
    clock.now += jump_s
    assert len(claim(deliveries, clock)) == 1
    assert claim(deliveries, clock) == ()


def test_a_process_that_waited_for_its_turn_takes_nothing_twice(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock
) -> None:
    """Its `now` is older than the lease that another one got meanwhile, or than its next try."""
    deliveries.add("job", key_id=new_key(accounts), body="{}", now=clock() - 20)
    (delivery,) = claim(deliveries, clock)
    clock.now -= 10
    assert claim(deliveries, clock) == ()
    deliveries.failed(delivery, "answered 500", next_at=clock() + 10 + 100)
    assert claim(deliveries, clock) == ()


def test_a_revoked_key_hears_nothing_more(
    accounts: AccountStore, deliveries: Deliveries, clock: Clock
) -> None:
    key_id = new_key(accounts)
    deliveries.add("job", key_id=key_id, body="{}", now=clock())
    accounts.keys.revoke(key_id)
    assert claim(deliveries, clock) == ()


def test_old_messages_are_forgotten(accounts: AccountStore, deliveries: Deliveries, clock: Clock) -> None:
    key_id = new_key(accounts)
    deliveries.add("old", key_id=key_id, body="{}", now=clock() - 100)
    deliveries.add("new", key_id=key_id, body="{}", now=clock())
    assert deliveries.sweep(keep_s=50, now=clock()) == 1
    assert [delivery.job_id for delivery in claim(deliveries, clock)] == ["new"]


def test_processes_share_the_messages(accounts: AccountStore, tmp_path: Path) -> None:
    for i in range(12):
        accounts.deliveries.add(f"job {i}", key_id=new_key(accounts), body="{}", now=1e6 - 1)
    children = [child(CLAIM, str(tmp_path / "accounts.sqlite")) for _ in range(3)]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = "".join(outputs_of(children)).splitlines()
    assert sorted(told) == sorted(f"job {i}" for i in range(12))
