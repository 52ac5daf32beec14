"""Charges: slots and device seconds are counted once, across processes, and come back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_parts import Clock, child, outputs_of

from rushes.errors import QuotaExceeded, TooManyJobs
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.charges import (
    KEEP_USAGE_DAYS,
    RESERVED_S,
    Charges,
    Reservation,
    day_of,
    seconds_to_midnight,
)

NOON = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 43200
DAY_S = 86400.0

RACE = """
import sys
from rushes.errors import LimitReached
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits

accounts = AccountStore(sys.argv[1])
limits = KeyLimits(concurrent_jobs=7, gpu_seconds_per_day=1e6)
print("ready", flush=True)
sys.stdin.readline()
num = 0
for i in range(20):
    try:
        reservation = accounts.charges.reserve(
            key_id="k", tenant="t", job_key=f"{sys.argv[2]} {i}", predicted_s=1.0, limits=limits, now=1e9
        )
        accounts.charges.bind(reservation, f"{sys.argv[2]} {i}")
        num += 1
    except LimitReached:
        pass
print(num)
"""

Reserve = Callable[..., Reservation]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    yield accounts
    accounts.close()


@pytest.fixture
def charges(accounts: AccountStore) -> Charges:
    return accounts.charges


@pytest.fixture
def reserve(charges: Charges, clock: Clock) -> Reserve:
    def reserve(
        job_key: str, predicted_s: float | None = 10.0, *, key_id: str = "k", **limits: float
    ) -> Reservation:
        return charges.reserve(
            key_id=key_id,
            tenant="t",
            job_key=job_key,
            predicted_s=predicted_s,
            limits=KeyLimits(**limits),  # type: ignore[arg-type]
            now=clock(),
        )

    return reserve


def bound(charges: Charges, reservation: Reservation, job_id: str) -> str:
    charges.bind(reservation, job_id)
    return job_id


def test_slots_come_back_when_jobs_end(charges: Charges, reserve: Reserve, clock: Clock) -> None:
    job = bound(charges, reserve("a", concurrent_jobs=2), "job a")
    clock.now += 4
    charges.bind(reserve("b", concurrent_jobs=2), "job b")
    with pytest.raises(TooManyJobs) as raised:
        reserve("c", concurrent_jobs=2)
    error = raised.value
    assert (error.limit, error.used, error.remaining, error.retry_after_s) == (2, 2, 0, 6.0)
    assert "2 jobs of this key are queued or running, and it may have 2; try again in 6 s" in str(error)
    reserve("c", key_id="other", concurrent_jobs=2)
    charges.settle(job, 8.0, now=clock())
    reserve("c", concurrent_jobs=2)


def test_a_days_seconds(charges: Charges, reserve: Reserve, clock: Clock) -> None:
    job = bound(charges, reserve("a", 60.0, gpu_seconds_per_day=100), "job a")
    with pytest.raises(QuotaExceeded) as raised:
        reserve("b", 41.0, gpu_seconds_per_day=100)
    error = raised.value
    assert (error.limit, error.used, error.remaining) == (100, 60, 40)
    assert error.reset_s == error.retry_after_s == DAY_S / 2
    charges.settle(job, 20.0, now=clock())
    reserve("b", 80.0, gpu_seconds_per_day=100)
    with pytest.raises(QuotaExceeded):
        reserve("c", 0.1, gpu_seconds_per_day=100)
    clock.now += DAY_S / 2
    reserve("c", 100.0, gpu_seconds_per_day=100)


@pytest.mark.parametrize(
    ("predicted_s", "actual_s", "cost_s"),
    [(10.0, 30.0, 10.0), (10.0, 3.0, 3.0), (10.0, None, 10.0), (None, 7.0, 7.0), (None, None, 0.0)],
)
def test_what_an_ended_job_costs(
    charges: Charges,
    reserve: Reserve,
    clock: Clock,
    predicted_s: float | None,
    actual_s: float | None,
    cost_s: float,
) -> None:
    charges.settle(bound(charges, reserve("a", predicted_s), "job a"), actual_s, now=clock())
    with pytest.raises(QuotaExceeded) as raised:
        reserve("b", 101.0, gpu_seconds_per_day=100)
    assert raised.value.used == cost_s


def test_a_job_that_never_fits_is_told_so(reserve: Reserve) -> None:
    with pytest.raises(QuotaExceeded, match=r"never more than 100.0 a day; make it smaller$"):
        reserve("a", 101.0, gpu_seconds_per_day=100)
    reserve("a", 60.0, gpu_seconds_per_day=100)
    with pytest.raises(QuotaExceeded, match=r"40.0 of 100.0 left today; try again in \d+ s$"):
        reserve("b", 60.0, gpu_seconds_per_day=100)


def test_a_key_that_has_used_all_gets_not_even_an_unpredicted_job(reserve: Reserve) -> None:
    reserve("a", 100.0, gpu_seconds_per_day=100)
    with pytest.raises(QuotaExceeded):
        reserve("b", None, gpu_seconds_per_day=100)


def test_a_reservation_is_released(charges: Charges, reserve: Reserve) -> None:
    charges.release(reserve("a", 100.0, concurrent_jobs=1, gpu_seconds_per_day=100))
    reservation = reserve("a", 100.0, concurrent_jobs=1, gpu_seconds_per_day=100)
    charges.bind(reservation, "job a")
    charges.release(reservation)
    with pytest.raises(TooManyJobs):
        reserve("b", 100.0, concurrent_jobs=1)


@pytest.mark.parametrize("jump_s", [RESERVED_S + 1, -RESERVED_S - 1, 40 * DAY_S, -40 * DAY_S])
def test_a_reservation_whose_job_never_came_is_freed(reserve: Reserve, clock: Clock, jump_s: float) -> None:
    """Also when the clock jumps back, and it lies in the future."""
    reserve("a", concurrent_jobs=1)
    with pytest.raises(TooManyJobs):
        reserve("b", concurrent_jobs=1)
    clock.now += jump_s
    reserve("b", concurrent_jobs=1)


@pytest.mark.parametrize("jump_s", [3 * DAY_S, -3 * DAY_S])
def test_a_clock_that_jumped_locks_nobody_out(
    charges: Charges, reserve: Reserve, clock: Clock, jump_s: float
) -> None:
    limits = {"concurrent_jobs": 1, "gpu_seconds_per_day": 100}
    clock.now += jump_s
    job = bound(charges, reserve("a", 100.0, **limits), "job a")
    clock.now -= jump_s
    with pytest.raises(TooManyJobs) as raised:
        reserve("b", 100.0, **limits)
    assert 1 <= raised.value.retry_after_s <= 60
    charges.settle(job, 100.0, now=clock())
    reserve("b", 100.0, **limits)


def test_a_repeated_call_takes_nothing_again(charges: Charges, reserve: Reserve) -> None:
    first = reserve("a", concurrent_jobs=1)
    again = reserve("a", concurrent_jobs=1)
    assert (first.is_new, again.is_new) == (True, False)
    charges.bind(first, "job a")
    charges.bind(again, "job a")
    assert charges.open_jobs() == ("job a",)
    charges.release(reserve("a", concurrent_jobs=1))
    assert charges.open_jobs() == ("job a",)


def test_a_repetition_of_an_ended_job_is_not_charged(
    charges: Charges, reserve: Reserve, clock: Clock
) -> None:
    charges.settle(bound(charges, reserve("a"), "job a"), 5.0, now=clock())
    charges.bind(reserve("a"), "job a")
    reserve("b", concurrent_jobs=1)
    (row,) = charges.by_day(days=1, now=clock())
    assert (row.num_jobs, row.actual_s) == (2, 5.0), "of which one is only reserved"


def test_the_first_call_failed_and_its_repetition_did_not(charges: Charges, reserve: Reserve) -> None:
    first, again = reserve("a"), reserve("a")
    charges.release(first)
    charges.bind(again, "job a")
    charge = charges.get("job a")
    assert charge is not None
    assert (charge.predicted_s, charge.ended_at) == (10.0, None)


def test_another_key_with_the_same_job_is_not_charged(charges: Charges, reserve: Reserve) -> None:
    charges.bind(reserve("a", key_id="k"), "job a")
    charges.bind(reserve("a", key_id="l", concurrent_jobs=1), "job a")
    reserve("b", key_id="l", concurrent_jobs=1)


def test_a_job_whose_gateway_died_is_claimed(charges: Charges, reserve: Reserve, clock: Clock) -> None:
    reserve("a")
    charges.claim("job a", tenant="other", job_key="a")
    assert charges.get("job a") is None
    for _ in range(2):
        charges.claim("job a", tenant="t", job_key="a")
        charges.settle("job a", 3.0, now=clock())
    charge = charges.get("job a")
    assert charge is not None
    assert (charge.actual_s, charge.ended_at) == (3.0, NOON)


def test_an_end_is_heard_once(charges: Charges, reserve: Reserve, clock: Clock) -> None:
    bound(charges, reserve("a"), "job a")
    for actual_s in (3.0, 9.0):
        charges.settle("job a", actual_s, now=clock())
    charge = charges.get("job a")
    assert charge is not None
    assert charge.actual_s == 3.0
    charges.settle("nobody's", 1.0, now=clock())


def test_what_was_cut_short_is_no_use_that_was_predicted(
    charges: Charges, reserve: Reserve, clock: Clock
) -> None:
    """A job that never began, and one that was ended in the middle, both deleted maybe."""
    for name, actual_s, is_whole in (
        ("a", 0.0, False),
        ("b", 2.0, False),
        ("c", 4.0, True),
        ("d", 30.0, False),
    ):
        charges.settle(bound(charges, reserve(name, 10.0), name), actual_s, now=clock(), is_whole=is_whole)
    (row,) = charges.by_day(days=1, now=clock())
    assert (row.num_jobs, row.predicted_s, row.actual_s) == (4, 0.0 + 2.0 + 10.0 + 10.0, 36.0)


def test_use_by_key_and_day(accounts: AccountStore, reserve: Reserve, clock: Clock) -> None:
    charges = accounts.charges
    key, _ = accounts.keys.create("ci", tenant="t")
    charges.settle(bound(charges, reserve("a", 5.0, key_id=key.id), "a"), 4.0, now=clock())
    charges.bind(reserve("b", 7.0, key_id=key.id), "b")
    clock.now += DAY_S
    charges.bind(reserve("c", 1.0), "c")
    clock.now += 2 * RESERVED_S
    rows = [
        (row.day, row.key_id, row.key, row.num_jobs, row.predicted_s, row.actual_s)
        for row in charges.by_day(days=2, now=clock())
    ]
    today, yesterday = day_of(clock()), day_of(NOON)
    assert rows == [(today, "k", None, 1, 1.0, 0.0), (yesterday, key.id, "ci", 2, 12.0, 4.0)]
    assert len(charges.by_day(days=1, now=clock())) == 1
    assert charges.by_day(days=2, now=clock(), tenant="u") == ()


def test_old_charges_are_forgotten(charges: Charges, reserve: Reserve, clock: Clock) -> None:
    charges.settle(bound(charges, reserve("a"), "a"), 1.0, now=clock())
    charges.bind(reserve("b"), "b")
    reserve("never came")
    clock.now += 2 * DAY_S
    assert charges.sweep(keep_days=3, now=clock()) == 1
    clock.now += 2 * DAY_S
    assert charges.sweep(keep_days=3, now=clock()) == 1
    assert charges.open_jobs() == ("b",)
    assert charges.get("a") is None
    used = [(row.num_jobs, row.actual_s) for row in charges.by_day(days=9, now=clock())]
    assert used == [(2, 1.0)], "what it used is still known"
    clock.now += KEEP_USAGE_DAYS * DAY_S
    charges.sweep(keep_days=3, now=clock())
    assert [row.num_jobs for row in charges.by_day(days=1000, now=clock())] == [1]


def test_processes_race_for_the_last_slots(tmp_path: Path) -> None:
    path = str(tmp_path / "accounts.sqlite")
    children = [child(RACE, path, f"child {i}") for i in range(4)]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(map(int, outputs_of(children))) == 7
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM charges").fetchone() == (7,)
    connection.close()


def test_days_are_utc() -> None:
    assert (day_of(0.0), day_of(DAY_S - 0.001), day_of(DAY_S)) == ("1970-01-01", "1970-01-01", "1970-01-02")
    assert seconds_to_midnight(DAY_S - 0.5) == 0.5
    assert seconds_to_midnight(DAY_S) == DAY_S
