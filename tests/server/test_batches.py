"""Batches over HTTP: checked as a whole, queued in order, gone on with, cancelled."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from local_service import LocalService, complete
from running_service import SMALL

import rushes
from rushes.engine.workplace import Workplace
from rushes.errors import IdempotencyConflict, InvalidRequest, TooManyBatches, UnknownBatch
from rushes.pipelines.rules import MAX_PROMPT_CHARACTERS
from rushes.server.asks import ask_of
from rushes.server.auth import LOCAL, Caller, caller_of
from rushes.server.batch_asks import BatchAsk, names_in, read_batch
from rushes.server.batch_runner import WINDOW, BatchRunner, batching_over
from rushes.server.batches import MOST_OPEN
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.problems import problem_of
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits

ROWS = [{"animal": "dog", "seed": 1}, {"animal": "cat", "seed": 2}, {"animal": "frog", "model": None}]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with Workplace(tmp_path / "store") as found:
        yield found


@pytest.fixture
def client(place: Workplace) -> Iterator[rushes.Client]:
    with LocalService(place) as service, rushes.Client(service.url) as found:
        yield found


def when(client: rushes.Client, batch_id: str, **counts: int) -> dict[str, Any]:
    """The batch, once it has these counts."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        found = dict(client.batch(batch_id))
        if counts.items() <= found["counts"].items():
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_rows_become_videos(client: rushes.Client, place: Workplace) -> None:
    made = client.create_batch("a {animal} in the park", ROWS, **SMALL)
    assert (made["object"], made["status"], made["total"]) == ("batch", "in_progress", 3)
    found = when(client, made["id"], queued=3, waiting=0)
    assert [row["row"] for row in found["rows"]] == [1, 2, 3]
    clips = [client.get(row["video_id"]).video for row in found["rows"]]
    assert [clip["prompt"] for clip in clips] == [f"a {name} in the park" for name in ("dog", "cat", "frog")]
    assert [clip["seed"] for clip in clips][:2] == [1, 2]
    assert {(clip["priority"], clip["size"], clip["model"]) for clip in clips} == {("batch", "64x64", "toy")}
    done = [complete(place) for _ in range(2)]
    found = when(client, made["id"], completed=2)
    assert (found["status"], found["actual_s"]) == ("in_progress", 3.0)
    assert [row["video_id"] for row in found["rows"] if row["status"] == "completed"] == done
    page = client.batch(made["id"], after=1, limit=1)
    assert ([row["row"] for row in page["rows"]], page["has_more"]) == ([2], True)
    complete(place)
    assert when(client, made["id"], completed=3)["status"] == "completed"


def test_an_estimate_queues_nothing(client: rushes.Client, place: Workplace) -> None:
    found = client.estimate_batch("a {animal}", ROWS, **SMALL)
    assert (found["object"], found["total"], found["predicted_s"]) == ("batch.estimate", 3, None)
    assert place.jobs.count() == 0


@pytest.mark.parametrize(
    ("template", "rows", "fields", "field", "says"),
    [
        (
            "a {animal}",
            [{"animal": "dog"}, {"animal": "cat", "width": 33}],
            {},
            "rows[1].width",
            "in row 2: ",
        ),
        ("a {animal}", [{"animal": "dog"}, {}], {}, "rows[1].animal", "needs a text or a number"),
        ("a {animal}", [{"animal": "dog", "sede": 1}], {}, "rows[0].sede", "did you mean 'seed'"),
        ("a {animal}", [{"animal": "dog"}], {"wdth": 64}, "rows[0].wdth", "did you mean 'width'"),
        ("a {animal}", [{"animal": "x" * MAX_PROMPT_CHARACTERS}], {}, "rows[0].prompt", "in row 1: "),
        ("a {animal", [{"animal": "dog"}], {}, "template", "{{ and }}"),
        ("a {animal.__class__}", [{"animal": "dog"}], {}, "template", "{{ and }}"),
        ("", [{}], {}, "template", "must be a prompt"),
        ("a dog", [], {}, "rows", "1 to 10000"),
        ("a dog", [{}], {"priority": "interactive"}, "priority", "batch lane"),
        ("a dog", [{}], {"prompt": "a cat"}, "prompt", "made of the template"),
        ("a dog", [{}, {"input_reference": "x.png"}], {}, "rows[1].input_reference", "from text only"),
        ("a dog", [{"model": "sora"}], {}, "rows[0].model", "not served here"),
        ("a dog", [{}], {"estimate": "yes"}, "estimate", "true or false"),
    ],
)
def test_one_bad_row_and_nothing_is_queued(
    client: rushes.Client,
    place: Workplace,
    template: str,
    rows: list[dict[str, Any]],
    fields: dict[str, Any],
    field: str,
    says: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.create_batch(template, rows, **{**SMALL, **fields})
    assert caught.value.field == field
    assert says in caught.value.reason
    assert place.jobs.count() == 0
    listed = httpx2.get(f"{client.url}/v1/batches").json()
    assert listed["data"] == []


def test_braces_and_numbers_in_a_template() -> None:
    ask = BatchAsk(template="{{{n}}} of {n}, {other_1}", rows=[{"n": 3, "other_1": "}{"}], fields={})
    assert ask.body(1)["prompt"] == "{3} of 3, }{"
    assert names_in(ask.template) == ("n", "other_1")


def test_a_prompt_too_long_is_never_put_together() -> None:
    ask = BatchAsk(template="{a}{{" * 90_000, rows=[{"a": "x" * 500_000}], fields={})
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="the filled template has 45000090000") as caught:
        next(ask.bodies())
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert caught.value.field == "rows[0].prompt"


def test_rows_that_are_no_objects() -> None:
    with pytest.raises(InvalidRequest, match="in row 2: must be an object"):
        read_batch({"template": "a dog", "rows": [{}, "x"]})


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,"])
def test_more_lists_or_values_than_a_batch_can_need(client: rushes.Client, part: bytes) -> None:
    body = b'{"template": "a dog", "rows": [' + part * (990_000 // len(part)) + b"0]}"
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{client.url}/v1/batches", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert "more than" in answer.json()["error"]["message"]


def test_brackets_and_commas_of_a_text_are_no_lists(client: rushes.Client) -> None:
    rows = [{"animal": "[{,,,,,,,}]" * 2 + str(number)} for number in range(9_000)]
    assert client.estimate_batch("a {animal}", rows, **SMALL)["total"] == 9_000


def test_the_same_key_is_the_same_batch(client: rushes.Client, place: Workplace) -> None:
    ids = {client.create_batch("a {animal}", ROWS, idempotency_key="k", **SMALL)["id"] for _ in range(2)}
    assert len(ids) == 1
    when(client, ids.pop(), queued=3)
    with pytest.raises(IdempotencyConflict):
        client.create_batch("a {animal}!", ROWS, idempotency_key="k", **SMALL)
    assert place.jobs.count() == 3


def test_a_batch_is_cancelled_with_its_jobs(client: rushes.Client, place: Workplace) -> None:
    rows = [{"seed": number} for number in range(WINDOW + 10)]
    made = client.create_batch("a dog", rows, **SMALL)
    when(client, made["id"], queued=WINDOW, waiting=10)
    complete(place)
    when(client, made["id"], completed=1, queued=WINDOW, waiting=9)
    found = client.cancel_batch(made["id"])
    assert (found["status"], found["counts"]["completed"]) == ("cancelled", 1)
    assert found["counts"]["cancelled"] == WINDOW + 9
    assert place.jobs.count(statuses=("queued", "running")) == 0


def test_a_crash_between_job_and_row_makes_nothing_twice(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    gateway = Gateway(place, Feed(place.jobs), models=("toy",))
    batching = batching_over(gateway, accounts)
    ask = read_batch({"template": "a {animal}", "rows": ROWS, **SMALL})
    record = batching.desk.create(ask, LOCAL)
    made = []

    class Crash(BaseException):
        """The process is gone."""

    def submit(*arguments: Any) -> Any:
        made.append(gateway.create(*arguments))
        if len(made) == 2:
            raise Crash
        return made[-1]

    dying = BatchRunner(batching.desk, place.jobs, submit, lambda _: LOCAL)
    with pytest.raises(Crash):
        dying.step()
    assert [row.number for row in accounts.batches.rows(record.id)] == [1]
    assert place.jobs.count() == 2
    assert batching.runner.step() == 2
    assert batching.runner.step() == 0
    rows = accounts.batches.rows(record.id)
    assert [row.job_id for row in rows[:2]] == [job.id for job in made]
    assert place.jobs.count() == 3
    accounts.close()


def test_a_job_that_a_dead_gateway_left_to_a_cancelled_batch_is_found_at_the_start(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    gateway = Gateway(place, Feed(place.jobs), models=("toy",))
    batching = batching_over(gateway, accounts)
    ask = read_batch({"template": "a {animal}", "rows": ROWS, **SMALL})
    record, other = (batching.desk.create(ask, LOCAL) for _ in range(2))

    class Crash(BaseException):
        """The process is gone."""

    def submit(*arguments: Any) -> Any:
        made = gateway.create(*arguments)
        if place.jobs.count() == 2:
            raise Crash
        return made

    with pytest.raises(Crash):
        BatchRunner(batching.desk, place.jobs, submit, lambda _: LOCAL).step()
    batching.desk.cancel(record.id, LOCAL)  # by another gateway, which knows of one row
    assert sorted(job.status for job in place.jobs.jobs()) == ["cancelled", "queued"]
    assert batching.runner.cancel_strays() == 1
    assert [job.status for job in place.jobs.jobs()] == ["cancelled", "cancelled"]
    assert batching.runner.cancel_strays() == 0
    assert batching.desk.get(other.id, LOCAL).cancelled_at is None
    assert batching.runner.step() == len(ROWS), "the other batch goes on"
    accounts.close()


@pytest.mark.parametrize("num_before", [1, 3])
def test_a_cancellation_while_rows_are_queued_holds(place: Workplace, num_before: int) -> None:
    """Between a job and the note that it is a row's, where whoever cancels cannot see it."""
    accounts = AccountStore(":memory:")
    gateway = Gateway(place, Feed(place.jobs), models=("toy",))
    desk = batching_over(gateway, accounts).desk
    record = desk.create(read_batch({"template": "a {animal}", "rows": ROWS * 3, **SMALL}), LOCAL)

    def submit(*arguments: Any) -> Any:
        job = gateway.create(*arguments)
        if place.jobs.count() == num_before:
            desk.cancel(record.id, LOCAL)
            assert place.jobs.get(job.id).status == "queued"
        return job

    runner = BatchRunner(desk, place.jobs, submit, lambda _: LOCAL)
    runner.step()
    assert [job.status for job in place.jobs.jobs()] == ["cancelled"] * num_before
    found = desk.batch(desk.get(record.id, LOCAL))
    assert (found["status"], found["counts"]["cancelled"]) == ("cancelled", len(ROWS) * 3)
    assert runner.step() == 0
    accounts.close()


def test_a_row_noted_after_a_cancellation_hears_of_it() -> None:
    accounts = AccountStore(":memory:")
    made = accounts.batches.create(key_id="k", tenant="t", spec={}, total=3, now=1.0)
    assert accounts.batches.add_row(made.id, 1, job_id="a")
    accounts.batches.cancel(made.id, now=2.0)
    assert not accounts.batches.add_row(made.id, 2, error="e")
    assert not accounts.batches.add_row(made.id, 1, job_id="a"), "by another gateway, which is late"
    assert [row.number for row in accounts.batches.rows(made.id)] == [1, 2]
    assert accounts.batches.failed(made.id) == (2,)
    accounts.batches.forget(made.id)
    assert not accounts.batches.add_row(made.id, 3, job_id="b")
    accounts.close()


def test_a_revoked_key_cancels_its_batches_with_their_jobs(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    key, _ = accounts.keys.create("mine", tenant="a")
    batching = batching_over(Gateway(place, Feed(place.jobs), models=("toy",)), accounts)
    caller = caller_of(key, now=time.time())
    rows = [{"seed": number} for number in range(WINDOW + 1)]
    record = batching.desk.create(read_batch({"template": "a dog", "rows": rows, **SMALL}), caller)
    assert batching.runner.step() == WINDOW
    accounts.keys.revoke(key.id)
    revoked_at = time.time()
    assert batching.runner.step() == 0
    assert place.jobs.count(statuses=("cancelled",)) == place.jobs.count() == WINDOW
    found = accounts.batches.get(record.id)
    assert found.cancelled_at is not None
    assert found.cancelled_at >= revoked_at
    accounts.close()


def test_a_row_whose_key_is_taken_fails_alone(place: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    accounts = AccountStore(":memory:")
    gateway = Gateway(place, Feed(place.jobs), models=("toy",))
    batching = batching_over(gateway, accounts)
    ask = read_batch({"template": "a {animal}", "rows": ROWS, **SMALL})
    first, second = (batching.desk.create(ask, LOCAL) for _ in range(2))
    asked, options = ask_of(
        {"prompt": "a bird", **SMALL},
        models=("toy",),
        tenant=LOCAL.tenant,
        idempotency_key=f"{first.id}/2",
        is_ours=True,
    )
    gateway.create(asked, options, LOCAL)
    assert batching.runner.step() == 6
    rows = [accounts.batches.rows(record.id) for record in (first, second)]
    assert [row.error is None for row in rows[0]] == [True, False, True]
    assert [row.error for row in rows[1]] == [None] * 3

    def submit(*arguments: Any) -> Any:
        if arguments[1].idempotency_key.startswith(third.id):
            raise ZeroDivisionError
        return gateway.create(*arguments)

    third, fourth = (batching.desk.create(ask, LOCAL) for _ in range(2))
    assert BatchRunner(batching.desk, place.jobs, submit, lambda _: LOCAL).step() == 3
    assert accounts.batches.get(fourth.id).num_rows == 3
    assert third.id in caplog.text
    accounts.close()


def test_a_tenant_has_so_many_open_batches(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    desk = batching_over(Gateway(place, Feed(place.jobs), models=("toy",)), accounts).desk
    ask = read_batch({"template": "a dog", "rows": [{}], **SMALL})
    made = [desk.create(ask, LOCAL, f"k{number}") for number in range(MOST_OPEN)]
    assert desk.create(ask, LOCAL, "k0") == made[0]
    with pytest.raises(TooManyBatches, match=f"it may have {MOST_OPEN} at once") as caught:
        desk.create(ask, LOCAL)
    problem = problem_of(caught.value)
    assert (problem.status, problem.code) == (429, "too_many_batches")
    desk.create(ask, Caller(key_id="k", tenant="other", scopes=LOCAL.scopes, limits=LOCAL.limits))
    desk.cancel(made[3].id, LOCAL)
    desk.create(ask, LOCAL)
    accounts.close()


def test_a_batch_is_kept_as_long_as_its_jobs(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    batching = batching_over(Gateway(place, Feed(place.jobs), models=("toy",)), accounts)
    desk, ask = batching.desk, read_batch({"template": "a {animal}", "rows": ROWS, **SMALL})
    old = desk.create(ask, LOCAL)
    batching.runner.step()
    waiting = desk.create(ask, LOCAL)
    assert (desk.sweep(keep_days=1.0), desk.sweep(keep_days=-1.0)) == (0, 0)
    for row in accounts.batches.rows(old.id):
        place.jobs.cancel(str(row.job_id))
        assert desk.sweep(keep_days=-1.0) == 0
    for row in accounts.batches.rows(old.id):
        place.forget(str(row.job_id))
    assert (desk.sweep(keep_days=1.0), desk.sweep(keep_days=-1.0)) == (0, 1)
    assert [record.id for record in accounts.batches.list()] == [waiting.id]
    assert accounts.batches.rows(old.id) == ()
    accounts.close()


def test_keys_of_rows_are_no_clients(client: rushes.Client) -> None:
    with pytest.raises(InvalidRequest, match="must not begin with 'batch_'"):
        client.create("a dog", **SMALL, idempotency_key="batch_1/5")


def test_limits_and_tenants(place: Workplace) -> None:
    with LocalService(place, has_auth=True) as service:
        keys = service.accounts.keys
        key, mine = keys.create("mine", tenant="a")
        _, other = keys.create("other", tenant="b", limits=KeyLimits())
        with rushes.Client(service.url, mine) as client, rushes.Client(service.url, other) as stranger:
            made = client.create_batch("a {animal}", ROWS, **SMALL)
            when(client, made["id"], queued=3)
            for call in (stranger.batch, stranger.cancel_batch):
                with pytest.raises(UnknownBatch):
                    call(made["id"])
            keys.revoke(key.id)
            record = service.accounts.batches.create(
                key_id=key.id,
                tenant="a",
                spec={"template": "a dog", "rows": [{}], "fields": {"model": "toy"}},
                total=1,
                now=time.time(),
            )
            deadline = time.monotonic() + 10.0
            while service.accounts.batches.get(record.id).cancelled_at is None:
                assert time.monotonic() < deadline, "a revoked key queues nothing more"
                time.sleep(0.05)


def test_a_keys_limit_delays_rows_and_fails_none(place: Workplace) -> None:
    with LocalService(place, has_auth=True) as service:
        _, secret = service.accounts.keys.create("two", limits=KeyLimits(concurrent_jobs=2))
        with rushes.Client(service.url, secret) as client:
            made = client.create_batch("a {animal}", ROWS, **SMALL)
            when(client, made["id"], queued=2, waiting=1)
            service.limits.ended(place.jobs.get(complete(place)))
            when(client, made["id"], completed=1, queued=2, waiting=0)
