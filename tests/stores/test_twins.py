"""Jobs of one key: who takes a result, who waits for one, and what becomes of those who wait."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from store_parts import OPTIONS, REQUEST, TTL_S, Bench, check_events, with_seed

from rushes.stores.base import MAX_DEATHS, JobRecord, Lease
from rushes.types import FINAL, JobOptions, LatentSource

KEY = "k"
URGENT = JobOptions(lane="interactive")


def ask(bench: Bench, options: JobOptions = OPTIONS, key: str = KEY) -> JobRecord:
    return bench.store.create(REQUEST, options, exact_key=key, joins=True, reuse='{"kind":"miss"}')


def finished(bench: Bench, result: str = "a.mp4", actual_s: float = 2.5) -> JobRecord:
    """A completed job of the key."""
    job = ask(bench)
    (lease,) = bench.lease()
    assert lease.job_id == job.id
    bench.store.finish(lease, result=result, actual_s=actual_s)
    return bench.store.get(job.id)


def twins(bench: Bench, num: int = 2) -> tuple[Lease, list[JobRecord]]:
    """The lease of an original, and its twins."""
    original = ask(bench)
    (lease,) = bench.lease()
    assert lease.job_id == original.id
    found = [ask(bench) for _ in range(num)]
    assert [twin.twin_of for twin in found] == num * [original.id]
    return lease, found


def test_a_completed_job_is_given_at_once(bench: Bench) -> None:
    original = finished(bench)
    bench.clock.now += 5
    hit = ask(bench)
    assert (hit.status, hit.result, hit.actual_s, hit.token) == ("completed", "a.mp4", 0.0, 0)
    assert (hit.created_at, hit.started_at, hit.finished_at) == 3 * (bench.clock.now,)
    assert json.loads(hit.reuse or "") == {
        "kind": "exact",
        "is_in_flight": False,
        "job_id": original.id,
        "saved_s": 2.5,
    }
    assert bench.store.get(hit.id) == hit
    assert bench.kinds(hit.id) == ["queued", "completed"]
    end = bench.store.events(hit.id)[-1].data
    assert (end["result"], end["actual_s"], end["seed"]) == ("a.mp4", 0.0, REQUEST.sampling.seed)
    check_events(bench.store, hit.id)
    assert not bench.lease()


def test_a_hit_of_a_hit_names_the_job_that_made_it(bench: Bench) -> None:
    original = finished(bench)
    hit = ask(bench)
    bench.store.forget(original.id)
    again = ask(bench)
    assert hit.reuse == again.reuse
    assert again.result == "a.mp4"


@pytest.mark.parametrize(
    ("tenant", "key", "joins"), [("other", KEY, True), ("default", "another", True), ("default", KEY, False)]
)
def test_nothing_is_given_to_others(bench: Bench, tenant: str, key: str, joins: bool) -> None:
    finished(bench)
    options = JobOptions(tenant=tenant)
    assert bench.store.create(REQUEST, options, exact_key=key, joins=joins).status == "queued"


def test_a_job_without_a_key_joins_nothing(bench: Bench) -> None:
    bench.store.create(REQUEST, OPTIONS, joins=True)
    second = bench.store.create(REQUEST, OPTIONS, joins=True)
    assert second.twin_of is None


def test_asking_first_writes_nothing_unless_there_is_something(bench: Bench) -> None:
    assert bench.store.reuse_exact(REQUEST, OPTIONS, exact_key=KEY) is None
    assert bench.store.count() == 0
    original = ask(bench)
    assert bench.store.reuse_exact(REQUEST, URGENT, exact_key=KEY) is None, "it runs in the other's place"
    twin = bench.store.reuse_exact(REQUEST, OPTIONS, exact_key=KEY)
    assert twin is not None
    assert (twin.status, twin.twin_of) == ("queued", original.id)


def test_an_idempotency_key_goes_first(bench: Bench) -> None:
    finished(bench)
    options = JobOptions(idempotency_key="again")
    assert ask(bench, options) == ask(bench, options)
    assert bench.store.count() == 2


def test_a_degraded_job_has_no_key(bench: Bench) -> None:
    smaller = replace(REQUEST, video=replace(REQUEST.video, num_frames=1))
    job = bench.store.create(smaller, OPTIONS, asked=REQUEST, exact_key=KEY, joins=True)
    assert ask(bench).twin_of is None, job


def test_a_source_leaves_the_key(bench: Bench) -> None:
    source = LatentSource(name="n", sigma=0.5, step=1, is_renoised=True)
    request = replace(REQUEST, source=source)
    job = bench.store.create(request, OPTIONS, asked=REQUEST, exact_key=KEY, joins=True)
    assert ask(bench).twin_of == job.id


def test_twins_are_never_leased(bench: Bench) -> None:
    twins(bench)
    assert not bench.lease(limit=9)
    bench.let_leases_run_out()
    assert len(bench.lease(limit=9)) == 1, "the original alone"


def test_twins_end_with_their_original(bench: Bench) -> None:
    lease, found = twins(bench)
    place = bench.store.last_place()
    bench.clock.now += 7
    bench.store.finish(lease, result="a.mp4", actual_s=3)
    for twin in found:
        record = bench.store.get(twin.id)
        assert (record.status, record.result, record.actual_s) == ("completed", "a.mp4", 0.0)
        assert record.finished_at == bench.clock.now
        assert json.loads(record.reuse or "")["is_in_flight"] is True
        check_events(bench.store, twin.id)
    told = [(event.job_id, event.kind) for event in bench.store.feed(after=place).events]
    assert told == [(job_id, "completed") for job_id in (lease.job_id, *(twin.id for twin in found))]


@pytest.mark.parametrize("how", ["fail", "cancelled", "dead"])
def test_the_first_twin_takes_the_place_of_an_original_that_made_nothing(bench: Bench, how: str) -> None:
    lease, (heir, other) = twins(bench)
    if how == "fail":
        bench.store.fail(lease, error="e", error_kind="k")
    elif how == "cancelled":
        bench.store.cancel(lease.job_id)
        bench.store.cancelled(lease)
    else:
        for _ in range(MAX_DEATHS - 1):
            bench.let_leases_run_out()
            bench.lease()
        bench.let_leases_run_out()
    (taken,) = bench.lease(limit=9)
    assert taken.job_id == heir.id
    assert bench.store.get(other.id).twin_of == heir.id
    assert bench.store.get(heir.id).reuse == '{"kind":"miss"}'
    bench.store.finish(taken, result="b.mp4", actual_s=1)
    assert bench.store.get(other.id).result == "b.mp4"


def test_a_cancelled_original_leaves_its_steps(bench: Bench) -> None:
    lease, (heir, _) = twins(bench)
    bench.store.checkpoint(lease, "steps")
    bench.store.cancel(lease.job_id)
    bench.store.cancelled(lease)
    assert bench.store.get(heir.id).checkpoint == "steps"
    assert bench.store.sweep(ttl_s=1e9, max_jobs=9).checkpoints == ()


def test_a_failed_original_leaves_no_steps(bench: Bench) -> None:
    lease, (heir, _) = twins(bench)
    bench.store.checkpoint(lease, "steps")
    bench.store.fail(lease, error="e", error_kind="k")
    assert bench.store.get(heir.id).checkpoint is None


def test_a_twin_is_cancelled_alone(bench: Bench) -> None:
    lease, (first, second) = twins(bench)
    assert bench.store.cancel(first.id).status == "cancelled"
    bench.store.finish(lease, result="a.mp4", actual_s=3)
    assert bench.store.get(first.id).result is None
    assert bench.store.get(second.id).status == "completed"


def test_nobody_joins_a_job_that_is_about_to_be_cancelled(bench: Bench) -> None:
    lease, _ = twins(bench, 0)
    bench.store.cancel(lease.job_id)
    assert ask(bench).twin_of is None


def test_an_original_that_becomes_another_clip_frees_its_twins(bench: Bench) -> None:
    lease, (heir, other) = twins(bench)
    bench.store.amend(lease, with_seed(1))
    assert [record.twin_of for record in (bench.store.get(heir.id), bench.store.get(other.id))] == [
        None,
        heir.id,
    ]
    bench.store.finish(lease, result="smaller.mp4", actual_s=1)
    assert ask(bench).twin_of == heir.id


def test_an_urgent_job_runs_in_the_place_of_one_that_waits(bench: Bench) -> None:
    batch = ask(bench)
    twin = ask(bench)
    urgent = ask(bench, URGENT)
    assert urgent.twin_of is None
    assert [bench.store.get(job.id).twin_of for job in (batch, twin)] == 2 * [urgent.id]
    (lease,) = bench.lease(limit=9)
    assert lease.job_id == urgent.id
    assert ask(bench, URGENT).twin_of == urgent.id
    bench.store.finish(lease, result="a.mp4", actual_s=1)
    assert {record.status for record in bench.store.jobs()} == {"completed"}


def test_twins_count_as_no_work_and_wait_where_their_original_does(bench: Bench) -> None:
    bench.create(2)
    original = ask(bench)
    twin = ask(bench)
    bench.create()
    last = bench.store.jobs(limit=1)[0]
    assert bench.store.nums_ahead([original.id, twin.id, last.id]) == [2, 2, 3]
    assert sum(depth.jobs for depth in bench.store.depths()) == 4
    assert len(bench.store.open_work()[0].unknown) == 4
    bench.lease(limit=9)
    assert bench.store.nums_ahead([twin.id]) == [0]


def test_a_result_goes_with_the_last_job_that_names_it(bench: Bench) -> None:
    original = finished(bench)
    hits = [ask(bench) for _ in range(2)]
    assert bench.store.forget(original.id).results == ()
    assert bench.store.is_named("a.mp4")
    assert bench.store.forget(hits[0].id).results == ()
    assert bench.store.sweep(ttl_s=0, max_jobs=9).results == ("a.mp4",)
    assert not bench.store.is_named("a.mp4")
    assert ask(bench).status == "queued"


def test_a_sweep_names_a_shared_result_once(bench: Bench) -> None:
    finished(bench)
    ask(bench)
    assert bench.store.sweep(ttl_s=0, max_jobs=9).results == ("a.mp4",)


@pytest.mark.parametrize("seed", range(12))
def test_random_lives(bench: Bench, seed: int) -> None:
    """Whatever happens, a twin waits for an open job of its key, no two jobs of a key run that could share
    one, results are told once, and in the end nobody is left waiting."""
    dice = random.Random(seed)
    leases: list[Lease] = []
    dropped: list[str] = []
    for number in range(120):
        deed = dice.choice(["ask", "ask", "ask", "lease", "finish", "fail", "cancel", "release", "die", "go"])
        open_jobs = [job for job in bench.store.jobs(limit=999) if job.status not in FINAL]
        held = [lease for lease in leases if _is_held(bench, lease)]
        if deed == "ask":
            ask(bench, dice.choice([OPTIONS, URGENT]), dice.choice("xyz"))
        elif deed == "lease":
            leases += bench.lease(limit=dice.randint(1, 2))
        elif deed == "finish" and held:
            bench.store.finish(dice.choice(held), result=f"{number}.mp4", actual_s=1)
        elif deed == "fail" and held:
            bench.store.fail(dice.choice(held), error="e", error_kind="k")
        elif deed == "cancel" and open_jobs:
            bench.store.cancel(dice.choice(open_jobs).id)
        elif deed == "release" and held:
            bench.store.release(dice.choice(held))
        elif deed == "die":
            bench.clock.now += TTL_S
        elif deed == "go":
            dropped += bench.store.sweep(ttl_s=1e9, max_jobs=dice.randint(0, 20)).results
        _check(bench)
    while bench.store.count(statuses=("queued", "running")):
        bench.clock.now += TTL_S
        for lease in bench.lease(limit=9):
            bench.store.finish(lease, result=f"{lease.job_id}.mp4", actual_s=1)
    dropped += bench.store.sweep(ttl_s=0, max_jobs=0).results
    assert len(dropped) == len(set(dropped))


def _is_held(bench: Bench, lease: Lease) -> bool:
    found = [record for record in bench.store.jobs(limit=999) if record.id == lease.job_id]
    return bool(found) and (found[0].status, found[0].token) == ("running", lease.token)


def _check(bench: Bench) -> None:
    jobs = {record.id: record for record in bench.store.jobs(limit=999)}
    for record in jobs.values():
        check_events(bench.store, record.id)
        if record.status == "queued" and record.twin_of is not None:
            original = jobs[record.twin_of]
            assert original.status in ("queued", "running")
            assert original.status == "running" or original.twin_of is None, "one level of twins"
