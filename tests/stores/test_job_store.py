"""What a store of jobs promises, in memory and in a file."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import pytest
from store_parts import OPTIONS, REQUEST, TTL_S, Bench, check_events, with_seed

from rushes.errors import IdempotencyConflict, LeaseLost, StoreError, UnknownJob
from rushes.stores.base import MAX_DEATHS, JobStore, Lease, Swept
from rushes.types import JobOptions


def test_a_new_job(bench: Bench) -> None:
    store: JobStore = bench.store
    record = store.create(REQUEST, OPTIONS, predicted_s=2, eta_s=3.5)
    assert record == store.get(record.id)
    assert (record.status, record.request, record.options) == ("queued", REQUEST, OPTIONS)
    assert (record.created_at, record.predicted_s, record.eta_s) == (bench.clock.now, 2, 3.5)
    (event,) = store.events(record.id)
    assert (event.number, event.kind, event.at) == (1, "queued", bench.clock.now)
    assert event.data == {"predicted_s": 2, "eta_s": 3.5}


def test_ids_cannot_be_guessed_and_sort_by_creation(bench: Bench) -> None:
    ids = []
    for jump_s in (0, 0, 3600, -7200, 0, 0.0005):
        bench.clock.now += jump_s
        ids += [record.id for record in bench.create(3)]
    assert ids == sorted(set(ids))
    assert len({job_id[-20:] for job_id in ids}) == len(ids)


def test_unknown_jobs_are_named(bench: Bench) -> None:
    for ask in (bench.store.get, bench.store.events, bench.store.cancel):
        with pytest.raises(UnknownJob, match="no job 'nobody'"):
            ask("nobody")


def test_the_life_of_a_job(bench: Bench) -> None:
    lease, store = bench.running("alice"), bench.store
    record = store.get(lease.job_id)
    assert (record.status, record.token, record.started_at) == ("running", 1, bench.clock.now)
    assert store.append(lease, "progress", {"step": 1}) == store.events(lease.job_id)[-1]
    assert store.checkpoint(lease, "a") is None
    assert store.checkpoint(lease, "b") == "a"
    assert store.checkpoint(lease, "b") is None
    bench.clock.now += 7
    store.finish(lease, result="clip.mp4", actual_s=6.5)
    record = store.get(lease.job_id)
    assert (record.status, record.result, record.actual_s) == ("completed", "clip.mp4", 6.5)
    assert record.finished_at == bench.clock.now
    last = store.events(lease.job_id)[-1]
    assert (last.kind, last.number) == ("completed", 3)
    assert last.data == {"result": "clip.mp4", "actual_s": 6.5, "predicted_s": None}


def test_a_finish_adds_what_the_worker_reports(bench: Bench) -> None:
    lease = bench.running()
    bench.store.finish(lease, result="a", actual_s=1, data={"seed": 7, "predicted_s": 2, "result": "x"})
    data = bench.store.events(lease.job_id)[-1].data
    assert data == {"seed": 7, "predicted_s": 2, "result": "a", "actual_s": 1}


def test_exactly_one_result(bench: Bench) -> None:
    lease = bench.running()
    bench.store.finish(lease, result="a", actual_s=1)
    bench.store.finish(lease, result="a", actual_s=1)  # said again, as after a StoreError
    with pytest.raises(LeaseLost, match="it is completed now"):
        bench.store.finish(lease, result="b", actual_s=1)
    with pytest.raises(LeaseLost):
        bench.store.fail(lease, error="x", error_kind="StageError")
    assert bench.store.get(lease.job_id).result == "a"
    assert bench.kinds(lease.job_id) == ["queued", "completed"]


@pytest.mark.parametrize("end", ["finish", "fail", "cancelled", "release", "next lease", "sweep"])
def test_an_old_lease_changes_nothing(bench: Bench, end: str) -> None:
    store, lease = bench.store, bench.running()
    if end == "finish":
        store.finish(lease, result="r", actual_s=1)
    elif end == "fail":
        store.fail(lease, error="e", error_kind="StageError")
    elif end == "cancelled":
        store.cancelled(lease)
    elif end == "release":
        store.release(lease)
    elif end == "sweep":
        store.fail(lease, error="e", error_kind="StageError")
        store.sweep(ttl_s=0, max_jobs=0)
    else:
        bench.let_leases_run_out()
        bench.lease("another")
    before = state(bench)
    writes = (
        lambda: store.append(lease, "progress", {}),
        lambda: store.checkpoint(lease, "c"),
        lambda: store.amend(lease, with_seed(1)),
        lambda: store.finish(lease, result="other", actual_s=1),
        lambda: store.fail(lease, error="e", error_kind="k"),
        lambda: store.cancelled(lease),
        lambda: store.release(lease),
    )
    for write in writes:
        with pytest.raises(LeaseLost, match=lease.job_id):
            write()
    heard = store.heartbeat("worker", [lease], ttl_s=TTL_S)
    assert (heard.lost, heard.cancelled) == ({lease.job_id}, frozenset())
    assert state(bench) == before


def state(bench: Bench) -> object:
    jobs = bench.store.jobs()
    return jobs, [bench.store.events(record.id) for record in jobs]


def test_a_lease_is_of_its_owner(bench: Bench) -> None:
    lease = bench.running("alice")
    with pytest.raises(LeaseLost, match="mallory no longer holds it"):
        bench.store.release(replace(lease, owner="mallory"))


def test_interactive_first_then_oldest_first(bench: Bench) -> None:
    batch = bench.create(2)
    interactive = bench.create(2, JobOptions(lane="interactive"))
    assert bench.store.lease("w", pipelines=["wan"], limit=9, ttl_s=1) == ()
    assert bench.store.lease("w", pipelines=[], limit=9, ttl_s=1) == ()
    assert bench.lease(limit=0) == []
    only = bench.store.lease("w", pipelines=["toy"], limit=1, ttl_s=1, lanes=["batch"])
    assert [record.id for record in only] == [batch[0].id]
    bench.store.release(Lease(job_id=batch[0].id, owner="w", token=1))
    leased = bench.lease(limit=3) + bench.lease(limit=3)
    assert [lease.job_id for lease in leased] == [record.id for record in interactive + batch]


def test_released_jobs_keep_checkpoint_and_place(bench: Bench) -> None:
    lease = bench.running()
    bench.create()
    bench.store.checkpoint(lease, "c")
    bench.store.release(lease)
    (again,) = bench.lease("another")
    record = bench.store.get(again.job_id)
    assert (again.job_id, again.token) == (lease.job_id, 2)
    assert (record.checkpoint, record.deaths) == ("c", 0)


def test_a_lease_that_nobody_took_goes_on(bench: Bench) -> None:
    lease = bench.running()
    bench.clock.now += 10 * TTL_S
    bench.store.append(lease, "progress", {})
    assert not bench.store.heartbeat("worker", [lease], ttl_s=TTL_S).lost
    assert bench.lease("another") == []
    assert bench.store.get(lease.job_id).deaths == 0


def test_a_job_that_ends_its_workers_fails(bench: Bench) -> None:
    first = bench.running()
    others = bench.create(2)
    for death in range(1, MAX_DEATHS):
        bench.let_leases_run_out()
        (lease,) = bench.lease(f"worker {death}")
        assert lease == Lease(job_id=first.job_id, owner=f"worker {death}", token=death + 1)
        assert bench.store.get(first.job_id).deaths == death
    bench.let_leases_run_out()
    assert [lease.job_id for lease in bench.lease(limit=2)] == [record.id for record in others]
    record = bench.store.get(first.job_id)
    assert (record.status, record.error_kind, record.deaths) == ("failed", "WorkerDied", MAX_DEATHS)
    assert record.error == "the worker died 3 times while it ran this job; the last was worker 2"
    assert bench.store.events(first.job_id)[-1].data == {"error": record.error, "error_kind": "WorkerDied"}
    with pytest.raises(LeaseLost):
        bench.store.append(lease, "progress", {})


def test_a_clock_that_jumps_back_does_not_keep_a_job(bench: Bench) -> None:
    """The lease of a dead worker seems to last for hours; the first look cuts it to its length."""
    lease = bench.running()
    bench.clock.now -= 3 * 3600
    assert bench.lease("another") == []
    bench.let_leases_run_out()
    assert bench.lease("another") == [replace(lease, owner="another", token=2)]


def test_a_clock_that_jumps_back_does_not_take_a_job(bench: Bench) -> None:
    lease = bench.running()
    bench.clock.now -= 3 * 3600
    for _ in range(5):
        bench.store.heartbeat("worker", [lease], ttl_s=TTL_S)
        assert bench.lease("another") == []
        bench.clock.now += TTL_S / 2
    bench.store.finish(lease, result="r", actual_s=1)


def test_a_clock_that_jumps_forward(bench: Bench) -> None:
    """Whoever comes first has the job; the other learns it and cannot commit."""
    kept, taken = bench.running(), bench.running()
    bench.clock.now += 3 * 3600
    bench.store.heartbeat("worker", [kept], ttl_s=TTL_S)
    (successor,) = bench.lease("another", limit=2)
    assert successor.job_id == taken.job_id
    assert bench.store.heartbeat("worker", [kept, taken], ttl_s=TTL_S).lost == {taken.job_id}
    bench.clock.now -= 3 * 3600
    with pytest.raises(LeaseLost):
        bench.store.finish(taken, result="r", actual_s=1)
    bench.store.finish(successor, result="s", actual_s=1)
    bench.store.finish(kept, result="k", actual_s=1)


def test_cancel(bench: Bench) -> None:
    queued = bench.create()[0]
    assert bench.store.cancel(queued.id).status == "cancelled"
    lease = bench.running()
    asked = bench.store.cancel(lease.job_id)
    assert (asked.status, asked.wants_cancel) == ("running", True)
    heard = bench.store.heartbeat("worker", [lease], ttl_s=TTL_S)
    assert (heard.lost, heard.cancelled) == (frozenset(), {lease.job_id})
    bench.store.cancelled(lease)
    record = bench.store.get(lease.job_id)
    assert (record.status, record.wants_cancel) == ("cancelled", False)
    assert bench.store.cancel(lease.job_id) == record
    assert bench.kinds(lease.job_id) == bench.kinds(queued.id) == ["queued", "cancelled"]


def test_a_finished_job_stays_finished(bench: Bench) -> None:
    lease = bench.running()
    bench.store.cancel(lease.job_id)
    bench.store.finish(lease, result="r", actual_s=1)
    record = bench.store.cancel(lease.job_id)
    assert (record.status, record.wants_cancel) == ("completed", False)


@pytest.mark.parametrize("how", ["release", "lease", "cancel"])
def test_nobody_runs_what_shall_be_cancelled(bench: Bench, how: str) -> None:
    lease = bench.running()
    if how != "cancel":
        bench.store.cancel(lease.job_id)
    if how == "release":
        bench.store.release(lease)
    bench.let_leases_run_out()
    if how == "cancel":
        bench.store.cancel(lease.job_id)
    assert bench.lease("another") == []
    assert bench.store.get(lease.job_id).status == "cancelled"
    assert bench.kinds(lease.job_id) == ["queued", "cancelled"]


def test_the_same_call_is_the_same_job(bench: Bench) -> None:
    options = JobOptions(idempotency_key="k", tenant="a")
    first = bench.store.create(REQUEST, options)
    assert bench.store.create(REQUEST, replace(options, lane="interactive", deadline_s=3)) == first
    assert bench.store.create(REQUEST, replace(options, tenant="b")).id != first.id
    assert bench.store.create(REQUEST, replace(options, idempotency_key=None)).id != first.id
    with pytest.raises(IdempotencyConflict, match=f"'k': was used for another request, job {first.id}"):
        bench.store.create(with_seed(1), options)
    assert bench.kinds(first.id) == ["queued"]
    (lease, *_) = bench.lease()
    bench.store.amend(lease, with_seed(2))  # compared as it came, not as it runs
    assert bench.store.create(REQUEST, options).request == with_seed(2)
    bench.store.fail(lease, error="e", error_kind="StageError")
    assert bench.store.create(REQUEST, options).status == "failed"
    bench.store.sweep(ttl_s=0, max_jobs=0)
    assert bench.store.create(with_seed(1), options).status == "queued"


def test_a_degraded_request_begins_anew(bench: Bench) -> None:
    lease = bench.running()
    smaller = replace(REQUEST, pipeline="tiny", video=replace(REQUEST.video, num_frames=1))
    assert bench.store.amend(lease, smaller, changes=[("num_frames", 5, 1)], predicted_s=2.0) is None
    record = bench.store.get(lease.job_id)
    assert (record.request, record.predicted_s) == (smaller, 2.0)
    assert bench.store.asked(lease.job_id) == REQUEST
    assert bench.kinds(lease.job_id) == ["queued", "degraded"]
    assert bench.store.events(lease.job_id)[-1].data == {"changes": [["num_frames", 5, 1]]}
    bench.store.checkpoint(lease, "c")
    assert bench.store.amend(lease, smaller) == "c"
    assert bench.store.get(lease.job_id).checkpoint is None, "it is of the old request"
    bench.store.release(lease)
    assert bench.lease("toy only") == []


def lease_ids(bench: Bench, most_bytes: int | None) -> list[str]:
    records = bench.store.lease("w", pipelines=["toy"], limit=9, ttl_s=TTL_S, most_bytes=most_bytes)
    return [record.id for record in records]


def test_a_worker_leaves_what_it_cannot_hold_to_others(bench: Bench) -> None:
    large, small = (bench.store.create(REQUEST, OPTIONS, needs_bytes=num).id for num in (80, 20))
    unknown = bench.store.create(REQUEST, OPTIONS).id
    assert lease_ids(bench, 19) == [unknown], "nobody has said what it needs"
    assert lease_ids(bench, 79) == [small]
    assert lease_ids(bench, 80) == [large]
    bench.let_leases_run_out()
    assert lease_ids(bench, 79) == [small, unknown], "nor is a dead worker's job taken over by it"
    assert lease_ids(bench, None) == [large]


def test_what_a_job_turned_out_to_need_decides_who_takes_it(bench: Bench) -> None:
    lease = bench.running("w")
    bench.store.release(lease, needs_bytes=50)
    assert lease_ids(bench, 49) == []
    assert lease_ids(bench, 50) == [lease.job_id]
    again = Lease(job_id=lease.job_id, owner="w", token=2)
    bench.store.release(again)
    assert lease_ids(bench, 49) == [], "what is known stays"
    assert lease_ids(bench, 50) == [lease.job_id]
    bench.store.amend(replace(again, token=3), with_seed(1), needs_bytes=10)
    bench.store.release(replace(again, token=3))
    assert lease_ids(bench, 10) == [lease.job_id]


def test_events_go_on_where_a_reader_stopped(bench: Bench) -> None:
    lease = bench.running()
    written = [bench.store.append(lease, "progress", {"step": step}) for step in range(5)]
    assert [event.number for event in written] == [2, 3, 4, 5, 6]
    assert bench.store.events(lease.job_id, after=3) == tuple(written[2:])
    assert bench.store.events(lease.job_id, after=6) == ()
    assert bench.store.events(lease.job_id, after=99) == ()


def test_events_that_are_written_together(bench: Bench) -> None:
    lease = bench.running()
    told = [("progress", {"step": step}) for step in range(3)]
    bench.store.append_all(lease, told)
    with pytest.raises(StoreError, match="cannot be written as JSON"):
        bench.store.append_all(lease, [("progress", {}), ("preview", {"x": object()})])
    with pytest.raises(StoreError, match="ends a job"):
        bench.store.append_all(lease, [("progress", {}), ("failed", {})])
    with pytest.raises(LeaseLost):
        bench.store.append_all(replace(lease, token=9), told)
    bench.store.finish(lease, result="a", actual_s=1, told=[("frames", {"start": 0}), ("progress", {})])
    found = bench.store.events(lease.job_id)
    assert [event.number for event in found] == [1, 2, 3, 4, 5, 6, 7]
    assert bench.kinds(lease.job_id) == ["queued", *["progress"] * 3, "frames", "progress", "completed"]
    assert [event.data for event in found[1:4]] == [data for _, data in told]


def test_data_of_events(bench: Bench) -> None:
    lease = bench.running()
    data = MappingProxyType({"a": (1, 2.5, None), "b": MappingProxyType({"c": "\udc80\0"})})
    event = bench.store.append(lease, "degraded", data)
    assert event.data == {"a": [1, 2.5, None], "b": {"c": "\udc80\0"}}
    for wrong in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(StoreError, match="event 'preview': its data cannot be written as JSON"):
            bench.store.append(lease, "preview", wrong)
    for kind in ("completed", "failed", "cancelled"):
        with pytest.raises(StoreError, match=f"event '{kind}': ends a job"):
            bench.store.append(lease, kind, {})
    assert bench.kinds(lease.job_id) == ["queued", "degraded"]


def test_a_reason_that_is_no_unicode_is_kept(bench: Bench) -> None:
    lease = bench.running()
    bench.store.fail(lease, error="no file '\udc80.mp4'", error_kind="StageError")
    assert bench.store.get(lease.job_id).error == "no file '\\udc80.mp4'"


def test_what_the_store_cannot_hold_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreError, match="surrogates not allowed"):
        bench.store.create(REQUEST, JobOptions(tenant="\udc80"))
    assert bench.store.count() == 0


def test_pages_are_stable(bench: Bench) -> None:
    """Equal times, jobs that come in between, and a last job of the page before that is gone."""
    old = [record.id for record in bench.create(7)]
    seen: list[str] = []
    after = None
    while page := bench.store.jobs(limit=2, after=after):
        seen += [record.id for record in page]
        after = page[-1].id
        bench.clock.now -= 100  # newer ones stay newer
        bench.create()
        bench.store.cancel(after)
        bench.store.sweep(ttl_s=-1, max_jobs=99)
    assert seen == old[::-1]


def test_lists_by_tenant_and_status(bench: Bench) -> None:
    a, b = JobOptions(tenant="a"), JobOptions(tenant="b")
    first, second, third = bench.create(2, a) + bench.create(1, b)
    bench.store.cancel(second.id)
    store = bench.store
    assert [record.id for record in store.jobs()] == [third.id, second.id, first.id]
    assert [record.id for record in store.jobs(tenant="a")] == [second.id, first.id]
    assert [record.id for record in store.jobs(statuses=["queued"])] == [third.id, first.id]
    assert [record.id for record in store.jobs(tenant="a", statuses=["cancelled", "failed"])] == [second.id]
    assert [record.id for record in store.jobs(tenant="a", after=second.id)] == [first.id]
    assert store.jobs(tenant="", limit=5) == ()
    assert store.count() == 3
    assert store.count(tenant="a", statuses=["queued"]) == 1


def test_depths_count_what_has_not_ended(bench: Bench) -> None:
    assert list(bench.store.depths()) == []
    oldest = bench.clock.now
    bench.create(2)
    bench.clock.now += 5
    bench.create(1, JobOptions(lane="interactive"))
    running = bench.store.lease("w", pipelines=("toy",), limit=1, ttl_s=TTL_S)[0]
    ended = bench.create(1)[0]
    bench.store.cancel(ended.id)
    depths = {(each.lane, each.status): (each.jobs, each.oldest_at) for each in bench.store.depths()}
    assert depths == {("batch", "queued"): (2, oldest), ("interactive", "running"): (1, oldest + 5)}
    assert {each.pipeline for each in bench.store.depths()} == {running.request.pipeline}


def test_sweep_by_age_and_count(bench: Bench) -> None:
    store = bench.store
    ended = []
    for number in range(6):
        lease = bench.running()
        store.checkpoint(lease, f"c{number}")
        if number % 2:
            store.finish(lease, result=f"r{number}", actual_s=1)
        else:
            store.fail(lease, error="e", error_kind="StageError")
        ended.append(lease.job_id)
        bench.clock.now += 10
    running = bench.running()
    store.checkpoint(running, "kept")
    swept = store.sweep(ttl_s=50, max_jobs=3)
    assert (swept.jobs, sorted(swept.results)) == (3, ["r1"])
    assert sorted(swept.job_ids) == sorted(ended[:3])
    assert sorted(swept.checkpoints) == [f"c{number}" for number in range(6)]
    assert {record.id for record in store.jobs()} == {*ended[3:], running.job_id}
    with pytest.raises(UnknownJob):
        store.events(ended[0])
    assert store.sweep(ttl_s=50, max_jobs=3) == Swept(jobs=0, checkpoints=(), results=())
    assert sorted(store.sweep(ttl_s=0, max_jobs=99).results) == ["r3", "r5"]
    assert store.get(running.job_id).checkpoint == "kept"


def test_a_sweep_keeps_those_that_ended_last(bench: Bench) -> None:
    """Not those that were created last."""
    first, second = bench.running(), bench.running()
    bench.store.finish(second, result="second", actual_s=1)
    bench.clock.now += 1
    bench.store.finish(first, result="first", actual_s=1)
    assert bench.store.sweep(ttl_s=99, max_jobs=1).results == ("second",)


def test_a_closed_store_says_so(bench: Bench) -> None:
    bench.store.close()
    bench.store.close()
    for ask in (bench.store.jobs, bench.create):
        with pytest.raises(StoreError, match="the job store is closed"):
            ask()


def test_threads_share_a_store(bench: Bench) -> None:
    num_jobs, num_threads, finished = 24, 4, Counter[str]()

    def work(name: str) -> None:
        while leases := bench.lease(name, limit=2):
            for lease in leases:
                bench.store.append(lease, "progress", {"by": name})
                bench.store.heartbeat(name, [lease], ttl_s=TTL_S)
                bench.store.finish(lease, result=name, actual_s=1)
                finished[lease.job_id] += 1

    bench.create(num_jobs)
    threads = [threading.Thread(target=work, args=(f"thread {i}",)) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == num_jobs
    assert set(finished.values()) == {1}
    for job_id in finished:
        check_events(bench.store, job_id)


def test_the_feed_tells_every_event_of_all_jobs_once(bench: Bench) -> None:
    first, second = bench.create(2)
    start = bench.store.feed(after=0)
    assert [event.job_id for event in start.events] == [first.id, second.id]
    (lease,) = bench.lease()
    bench.store.append(lease, "progress", {"units": 1})
    bench.store.cancel(second.id)
    one = bench.store.feed(after=start.place, limit=1)
    rest = bench.store.feed(after=one.place)
    told = [(event.job_id, event.kind) for event in (*one.events, *rest.events)]
    assert told == [(first.id, "progress"), (second.id, "cancelled")]
    assert bench.store.last_place() == rest.place
    assert bench.store.feed(after=rest.place).events == ()


def test_places_are_not_given_again(bench: Bench) -> None:
    (record,) = bench.create()
    bench.store.cancel(record.id)
    place = bench.store.last_place()
    bench.store.forget(record.id)
    assert bench.store.last_place() == place
    bench.create()
    assert bench.store.feed(after=0).place > place


def test_jobs_ahead_in_the_queue(bench: Bench) -> None:
    slow = bench.create(2, JobOptions(lane="batch"))
    (urgent,) = bench.create(1, JobOptions(lane="interactive"))
    ids = [record.id for record in (urgent, *slow)]
    assert bench.store.nums_ahead(ids) == [0, 1, 2]
    bench.lease()
    assert bench.store.nums_ahead(ids) == [0, 0, 1]
    assert bench.store.nums_ahead([]) == []
    assert bench.store.nums_ahead([ids[2], "nobody"]) == [1, 0]


def test_a_job_that_cannot_be_read_holds_up_nobody(bench: Bench) -> None:
    broken, whole = bench.create(2)
    with bench.store._database.write() as connection:  # as a disk would
        connection.execute("UPDATE jobs SET options = '{' WHERE id = ?", (broken.id,))
    assert [lease.job_id for lease in bench.lease()] == [whole.id]
    (last,) = [event for event in bench.store.events(broken.id) if event.kind == "failed"]
    assert last.data["error_kind"] == "StoreError"


def test_a_damaged_job_takes_no_list_with_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    records = bench.create(5)
    ids = [record.id for record in records]
    with bench.store._database.write() as connection:  # as a disk would
        connection.execute("UPDATE jobs SET request = '[]' WHERE id IN (?, ?)", (ids[1], ids[3]))
    whole = [ids[0], ids[2], ids[4]]
    assert [record.id for record in bench.store.jobs(oldest_first=True)] == whole
    first = bench.store.jobs(limit=2)
    assert [record.id for record in first] == [ids[4], ids[2]], "a page is full, or the last"
    assert [record.id for record in bench.store.jobs(limit=2, after=first[-1].id)] == [ids[0]]
    assert len([line for line in caplog.messages if ids[1] in line]) == 1, "said once"
    assert len(caplog.messages) == 2


def test_a_page_of_places_is_what_each_job_is_told_by_itself(bench: Bench) -> None:
    chance = random.Random(5)
    records = [
        record
        for _ in range(40)
        for record in bench.create(1, JobOptions(lane=chance.choice(["batch", "interactive"])))
    ]
    bench.lease(limit=3)
    for record in chance.sample(records, 8):
        bench.store.cancel(record.id)
    page = [record.id for record in chance.sample(records, 25)]
    assert bench.store.nums_ahead(page) == [bench.store.nums_ahead([job_id])[0] for job_id in page]
    queued = [each for each in records if bench.store.get(each.id).status == "queued"]
    in_order = sorted(queued, key=lambda each: (each.options.lane != "interactive", each.id))
    assert bench.store.nums_ahead([each.id for each in in_order]) == [*range(len(in_order))]


def test_an_ended_job_can_be_forgotten(bench: Bench) -> None:
    lease = bench.running()
    with pytest.raises(StoreError, match="is running, and only an ended job can be forgotten"):
        bench.store.forget(lease.job_id)
    bench.store.finish(lease, result="clip.mp4", actual_s=1.0)
    assert bench.store.forget(lease.job_id).results == ("clip.mp4",)
    with pytest.raises(UnknownJob):
        bench.store.get(lease.job_id)
    with pytest.raises(UnknownJob):
        bench.store.events(lease.job_id)


def test_oldest_first(bench: Bench) -> None:
    records = bench.create(3)
    page = bench.store.jobs(limit=2, oldest_first=True)
    assert [record.id for record in page] == [record.id for record in records[:2]]
    rest = bench.store.jobs(after=page[-1].id, oldest_first=True)
    assert [record.id for record in rest] == [records[2].id]
